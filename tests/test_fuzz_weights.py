"""200 model directories and 200 saves with one thing wrong: a result that is right, or one line that names the file.

10,000 of each: tests/acceptance/test_fuzz_weights_full.py and test_fuzz_checkpoints.py.
"""

import damaged_checkpoints
import damaged_models


def test_a_damaged_model_directory_is_read_right_or_refused(tmp_path):
    originals = damaged_models.make_originals(tmp_path)
    (tmp_path / "damaged").mkdir()
    counts, failures = damaged_models.try_all(originals, tmp_path / "damaged", range(200), import_every=50)
    assert failures == []
    assert {"config.json", "safetensors", "model.safetensors.index.json", "tokenizer.json"} <= counts.keys()
    assert counts["config.json"]["load: refused"] > 10 < counts["safetensors"]["load: refused"]


def test_a_damaged_save_is_read_right_passed_over_or_refused(tmp_path):
    originals = damaged_checkpoints.make_originals(tmp_path)
    (tmp_path / "damaged").mkdir()
    counts, failures = damaged_checkpoints.try_all(originals, tmp_path / "damaged", range(200))
    assert failures == []
    assert counts["restore"]["the save before"] > 20
    assert counts["parameters"]["refused"] > 5 < counts["record"]["refused"]
