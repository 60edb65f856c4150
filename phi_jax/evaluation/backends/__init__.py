"""What completes prompts: our sampler, transformers, vLLM, or a server; see completion.Backend.

jax_sampler.py loads jax, hf_transformers.py transformers and torch, vllm_engine.py vllm, and no other module does.
"""

from __future__ import annotations

import abc
import hashlib
import importlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phi_jax.errors import UserError
from phi_jax.evaluation.completion import TOO_LONG, Backend, Completion, Plan, Request
from phi_jax.store.artifact import Artifact, file_digest

if TYPE_CHECKING:
    from phi_jax.tokens.tokenizer import Tokenizer

_MODULES = {
    "jax": "phi_jax.evaluation.backends.jax_sampler",
    "transformers": "phi_jax.evaluation.backends.hf_transformers",
    "vllm": "phi_jax.evaluation.backends.vllm_engine",
}
BACKENDS = tuple(_MODULES)


def open_backend(name: str, model: Path, plan: Plan, **options: Any) -> Backend:
    """The model at `model` on a backend of BACKENDS.

    options: of jax, slots and live_slots; of transformers, batch_size, dtype ("": the export's) and device
    ("cuda" or "cpu"); of vllm, dtype. Raises UserError where model, libraries or device are not there, and for an
    option that this backend does not have.
    """
    if name not in _MODULES:
        raise UserError(f"--backend {name}: unknown; use one of {', '.join(BACKENDS)}")
    if not model.is_dir():
        raise UserError(f"--model {model}: no directory; name an exported directory or a training artifact")
    try:
        module = importlib.import_module(_MODULES[name])
    except ImportError as error:
        extra = {"transformers": "hf"}.get(name, name)
        raise UserError(
            f"--backend {name}: not installed here ({error}); pip install 'phi-jax[{extra}]', or use "
            "launch/a100_eval/run, which makes an environment"
        ) from None
    if foreign := options.keys() - inspect.signature(module.open_model).parameters.keys():
        raise UserError(f"--backend {name}: has no option {min(foreign)}; leave it out")
    return module.open_model(model, plan, **options)


def model_identity(model: Path) -> Any:
    """A training artifact's identity, or the digest of each file of a Hugging Face directory."""
    artifact = Artifact.read(model)
    if artifact is not None:
        return artifact.identity
    return {str(p.relative_to(model)): file_digest(p) for p in sorted(model.rglob("*")) if p.is_file()}


def seed_of(plan: Plan, request: Request) -> int:
    """What a completion's draws are seeded with, 56 bits: the same in any batch."""
    text = f"{plan.seed}/{request.task_id}/{request.sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


class TokenBackend(abc.ABC):
    """A backend that is given tokens and returns them. A subclass has `decode`."""

    settings: dict[str, Any]

    def __init__(self, tokenizer: Tokenizer, context: int, plan: Plan) -> None:
        """context: tokens that the model takes. Raises UserError where max_new_tokens leave no room for a prompt."""
        self.tokenizer, self.plan = tokenizer, plan
        self._longest = context - plan.max_new_tokens
        if self._longest < 1:
            raise UserError(
                f"max_new_tokens={plan.max_new_tokens}: the model's context of {context} tokens leaves no room for a "
                "prompt; lower it"
            )

    def complete(self, requests: Sequence[Request], label: str) -> Iterator[tuple[int, Completion]]:
        """See completion.Backend."""
        prompts = [self.tokenizer.encode(request.shown) for request in requests]
        fitting = [i for i, prompt in enumerate(prompts) if len(prompt) <= self._longest]
        for k, tokens in self.decode([requests[i] for i in fitting], [prompts[i] for i in fitting]):
            yield fitting[k], self._completion(requests[fitting[k]], tokens)
        for i in set(range(len(requests))) - set(fitting):
            yield i, Completion("", stop_reason=TOO_LONG)

    @abc.abstractmethod
    def decode(self, requests: Sequence[Request], prompts: Sequence[list[int]]) -> Iterator[tuple[int, list[int]]]:
        """(index, new tokens) of each as it ends; the first end-of-text token among them ends them."""

    def has_stopped(self, request: Request, tokens: Sequence[int]) -> bool:
        """Whether these new tokens may be the last."""
        return request.has_stopped(self.tokenizer.decode(tokens))

    def _completion(self, request: Request, tokens: list[int]) -> Completion:
        end = self.tokenizer.end_of_text_id
        kept = tokens[: tokens.index(end)] if end in tokens else tokens
        text = self.tokenizer.decode(kept)
        stopped = request.has_stopped(text)
        return Completion(text, len(kept), "stop" if stopped else "end_of_text" if end in tokens else "length")
