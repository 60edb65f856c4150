"""phi_jax beside transformers on torch: the step's speed, and the logits of an export."""

from __future__ import annotations

import gc
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from case import ROOT, Skipped, case, shape_of

from phi_jax.errors import UserError

Figures = dict[str, Any]


def _torch() -> Any:
    """The module torch. Raises Skipped where it or transformers is missing."""
    try:
        import torch
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise Skipped(f"no {error.name}") from None
    return torch


def speed(context: Figures) -> Iterator[Figures]:
    """The batch of the part `step` by transformers on torch, on one device: eager, then compiled.

    Where torch runs out of memory, the batch is cut into twice as many microbatches. ratio: our tokens a second of one
    device by torch's. Torch may take its flash, memory-efficient or cuDNN kernel, not the plain one.
    """
    torch = _torch()
    on_gpu = torch.cuda.is_available()
    if not on_gpu and context["shapes"] != "tiny":
        raise Skipped("torch without CUDA")
    sys.path.append(str(ROOT / "tests" / "benchmarks"))
    try:
        from train_transformers import check_same, peer
    except ModuleNotFoundError:
        raise Skipped("no tests/benchmarks in this checkout") from None
    ours = (context["step"] or {}).get("figures", {})
    if "case" not in ours:
        raise Skipped("the part step has no figures to stand beside")
    chosen = {**ours["case"], "steps": 10 if on_gpu else 2}
    chosen["training"] = {**chosen["training"], "global_batch_size": ours["rows_a_device"]}
    torch.backends.cuda.enable_math_sdp(not on_gpu)
    found: Figures = {}
    for name in ("eager", "compiled"):
        figures = None
        while figures is None:
            try:
                figures = peer(chosen, "sdpa without mask", compiled=name == "compiled")
            except torch.cuda.OutOfMemoryError:
                if chosen["training"]["microbatches"] >= ours["rows_a_device"]:
                    raise
                chosen["training"]["microbatches"] *= 2
            gc.collect()  # the model of the last turn
            if on_gpu:
                torch.cuda.empty_cache()
        check_same(chosen, {"ours": ours, "peer": figures})
        ratio = ours["tokens_per_second"] / ours["devices"] / figures["tokens_per_second"]
        found[name] = {**figures, "microbatches": chosen["training"]["microbatches"], "ratio": ratio}
        yield found


def export(context: Figures) -> Iterator[Figures]:
    """A random model of two blocks of phi-1's width, exported, and its logits by transformers here and by us."""

    torch = _torch()
    import jax
    import numpy as np
    import transformers

    from phi_jax.model import phi
    from phi_jax.weights.huggingface import export_model

    whole = case("phi_1", context["shapes"], "xla")
    shape = shape_of(whole, num_layers=2, compute_dtype="float32", attention_dropout=0.0, residual_dropout=0.0)
    abstract = phi.abstract_params(shape)
    rng = np.random.default_rng(0)
    # Biases and norms are random too: zeros and ones would hide errors.
    spread = shape.hidden_size**-0.5
    params = jax.tree.map(lambda x: spread * rng.standard_normal(x.shape, np.float32), abstract)
    tokens = rng.integers(0, shape.vocab_size, (2, min(256, shape.max_seq_len)), dtype=np.int32)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as directory:
        export_model(params, shape, Path(directory), tokenizer_directory=None, end_of_text_id=0)
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype="float32")
        model = model.to(place).eval()
    with torch.inference_mode():
        theirs = model(torch.from_numpy(tokens).long().to(place)).logits.float().cpu().numpy()
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(jax.jit(phi.forward, static_argnums=2)(params, tokens, shape))
    off = float(np.abs(ours - theirs).max() / np.abs(ours).max())
    same = float((ours.argmax(-1) == theirs.argmax(-1)).mean())
    yield {"torch_on": place, "relative_largest": off, "bound": LOGITS, "same_next_token": same}
    if not off <= LOGITS:
        raise UserError(f"logits differ by {off:.2g} of the largest, bound {LOGITS:.2g}")


# float32 rounds by 2^-24; sums of 8192 products in another order are off by some 2^-20 of their terms, and two blocks
# and a head pass that on a few times. TF32, of which either side might make use unasked, is off by 2^-11.
LOGITS = 2**-14
