"""What completes prompts: our sampler, transformers, vLLM, or a server; see completion.Backend.

jax_sampler.py loads jax, hf_transformers.py transformers and torch, vllm_engine.py vllm, and no other module does.
"""

import abc
import hashlib
import importlib
import inspect
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from phi_jax.errors import UserError
from phi_jax.evaluation.completion import TOO_LONG, Backend, Completion, Plan, Request
from phi_jax.store.rows import read_object
from phi_jax.tokens.tokenizer import Tokenizer

_MODULES = {
    "jax": "phi_jax.evaluation.backends.jax_sampler",
    "transformers": "phi_jax.evaluation.backends.hf_transformers",
    "vllm": "phi_jax.evaluation.backends.vllm_engine",
}
DTYPES = ("bfloat16", "float16", "float32")
Decoded = Iterator[tuple[int, list[int]]]  # (index of a request, new tokens)


def open_backend(name: str, model: Path, plan: Plan, **options: Any) -> Backend:
    """The model at `model` on the backend jax, transformers or vllm.

    options: of jax, slots; of transformers, batch_size, dtype ("": the export's) and device
    ("cuda" or "cpu"); of vllm, dtype. Raises UserError where model, libraries or device are not there, and for an
    option that this backend does not have.
    """
    if not model.is_dir():
        raise UserError(f"--model {model}: no directory; name an exported directory or a training artifact")
    try:
        module = importlib.import_module(_MODULES[name])
    except ImportError as error:
        extra = "hf" if name == "transformers" else name
        raise UserError(
            f"--backend {name}: not installed here ({error}); pip install 'phi-jax[{extra}]', or use "
            "launch/a100_eval/run, which makes an environment"
        ) from None
    if foreign := options.keys() - inspect.signature(module.open_model).parameters.keys():
        raise UserError(f"--backend {name}: has no option {min(foreign)}; leave it out")
    return module.open_model(model, plan, **options)


def seed_of(plan: Plan, request: Request) -> int:
    """What a completion's draws are seeded with, 56 bits: the same in any batch."""
    text = f"{plan.seed}/{request.task_id}/{request.sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


class TokenBackend(abc.ABC):
    """A backend that is given tokens and returns them. A subclass has `decode`."""

    settings: dict[str, Any]

    def __init__(self, tokenizer: Tokenizer, context: int, plan: Plan) -> None:
        """context: tokens that the model takes. Raises UserError where max_new_tokens leave no room for a prompt."""
        self.tokenizer, self.context, self.plan = tokenizer, context, plan
        if plan.max_new_tokens >= context:
            raise UserError(
                f"max_new_tokens={plan.max_new_tokens}: the model's context of {context} tokens leaves no room for a "
                "prompt; lower it"
            )

    def complete(self, requests: Sequence[Request], label: str) -> Iterator[tuple[int, Completion]]:
        """See completion.Backend."""
        fitting: dict[int, list[int]] = {}  # index of a request -> its prompt
        for i, request in enumerate(requests):
            prompt = self.tokenizer.encode(request.shown)
            if len(prompt) + self.plan.max_new_tokens <= self.context:
                fitting[i] = prompt
            else:
                yield i, Completion("", stop_reason=TOO_LONG)
        end = self.tokenizer.end_of_text_id
        indices = list(fitting)
        for k, tokens in self.decode([requests[i] for i in indices], list(fitting.values())):
            kept = tokens[: tokens.index(end)] if end in tokens else tokens
            text = self.tokenizer.decode(kept)
            stopped = requests[indices[k]].has_stopped(text)
            reason = "stop" if stopped else "end_of_text" if end in tokens else "length"
            yield indices[k], Completion(text, len(kept), reason)

    @abc.abstractmethod
    def decode(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> Decoded:
        """The new tokens of each as it ends; the first end-of-text token among them ends them."""

    def has_stopped(self, request: Request, tokens: Sequence[int]) -> bool:
        """Whether these new tokens may be the last."""
        return request.has_stopped(self.tokenizer.decode(tokens))


class ExportBackend(TokenBackend):
    """What transformers and vLLM have in common: both run an exported directory on torch, in `dtype`."""

    def __init__(self, library: ModuleType, model: Path, plan: Plan, *, dtype: str, device: str = "cuda") -> None:
        """dtype: of DTYPES; "" = the export's. Raises UserError where neither names one, and where the device lacks."""
        import torch

        name, path = library.__name__, model / "config.json"
        config = read_object(path)
        # transformers 5's name and 4's; Phi's and CodeGen's.
        self.dtype = dtype or config.get("dtype") or config.get("torch_dtype") or ""
        context = config.get("max_position_embeddings") or config.get("n_positions", 0)
        if self.dtype not in DTYPES:
            raise UserError(f"{path}: dtype is {self.dtype!r}; name one of {', '.join(DTYPES)} with --dtype")
        super().__init__(Tokenizer.load(model), context, plan)
        if device == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"--backend {name}: torch {torch.__version__} sees no GPU; start it on a machine with one and a driver "
                "that fits, or try a small model with --backend transformers --device cpu"
            )
        self.settings = {
            "backend": name,
            "dtype": self.dtype,
            "versions": {name: library.__version__, "torch": torch.__version__},
            "device": torch.cuda.get_device_name(0) if device == "cuda" else f"{platform.machine()} CPU",
        }
