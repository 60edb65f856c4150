"""Which client fails or goes silently wrong on a Phi or CodeGen directory, and what to do about it.

`lint(directory)` knows nothing of our own writer: names, shapes and sizes are stated here a second time, so that an
export is checked by something that does not share its mistakes. Where a rule comes from stands beside it.
"""

from __future__ import annotations

from pathlib import Path

from phi_jax.errors import UserError
from phi_jax.weights.lint.config import CONFIG, EARLY, FIELDS, GENERATION, ID_FIELDS, lint_config, read_shape
from phi_jax.weights.lint.finding import Finding, error, read_object
from phi_jax.weights.lint.shards import lint_shards
from phi_jax.weights.lint.tensors import lint_tensors
from phi_jax.weights.lint.tokenizer import lint_tokenizer


def lint(directory: str | Path) -> list[Finding]:
    """All findings about a model directory, errors first.

    Raises UserError where there is no such directory and for a model that is neither Phi nor CodeGen.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; name one in Hugging Face's format")
    findings: list[Finding] = []
    config = read_object(directory / CONFIG, findings, FIELDS)
    if config is None:
        if not findings:
            findings.append(error("no-config", CONFIG, "missing: no client knows the model", "get the whole directory"))
        return findings
    kind = config.get("model_type")
    if kind not in ("phi", "codegen", *EARLY):
        raise UserError(f"{directory / CONFIG}: model_type is {kind!r}; only phi and codegen can be checked")
    shape = None if kind in EARLY else read_shape(config, findings)
    # Both transformers go by config.json then (run).
    generation = read_object(directory / GENERATION, findings, ID_FIELDS, passed_over_by=("transformers",))
    findings.extend(lint_config(config, generation, shape))
    tensors = lint_shards(directory, findings)
    if tensors is not None:
        findings.extend(lint_tensors(tensors, config, shape))
    findings.extend(lint_tokenizer(directory, config, generation, shape))
    return sorted(findings, key=lambda finding: finding.severity)
