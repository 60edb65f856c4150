"""What torch itself saves is read without it, bit for bit."""

import numpy as np
import pytest

from phi_jax.errors import UserError
from phi_jax.weights.pickled import open_pickled

pytestmark = pytest.mark.peers


def test_a_state_dict_of_torch_is_read(transformers, tmp_path):
    import torch

    shared = torch.randn(4, 6)
    module = torch.nn.Linear(3, 2)
    state = {
        "float": torch.randn(5, 3), "half": torch.randn(7).half(), "bfloat16": torch.randn(2, 2).bfloat16(),
        "transposed": shared.T, "rows": shared[1:3], "column": shared[:, 2], "scalar": torch.tensor(3.5),
        "mask": torch.tril(torch.ones(3, 3, dtype=torch.bool)), "weight": module.weight,
    }  # fmt: skip
    torch.save(state, tmp_path / "pytorch_model.bin")
    read = open_pickled(tmp_path / "pytorch_model.bin")
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        mine = read[name]()
        assert str(mine.dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(mine.astype(np.float64), tensor.detach().double().numpy(), err_msg=name)


def test_the_old_format_is_named(transformers, tmp_path):
    import torch

    torch.save({"a": torch.ones(3)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"saved by torch before 1\.6"):
        open_pickled(tmp_path / "old.bin")
