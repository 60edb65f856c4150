"""`phi-jax import`: a published model becomes a training artifact, which trains on, samples and is exported again."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
from etils import epath

from phi_jax.errors import UserError
from phi_jax.store.artifact import Artifact, Draft, artifact_key, write_json
from phi_jax.weights.architecture import leaf_at, leaves_of, put_leaf, read_json
from phi_jax.weights.checkpoints import Checkpoints, state_digest
from phi_jax.weights.huggingface import check_target, load_directory, read_architecture


def import_directory(source: str, target: str) -> Artifact:
    """Reads a Phi or CodeGen directory, checked, and writes an artifact to `target`; see load_directory for errors.

    Weights are kept as float32, which holds float16 and bfloat16 exactly. Raises UserError too where the target exists
    or the tokenizer has more entries than the embedding; nothing is left half-written.
    """
    from phi_jax.tokens.tokenizer import Tokenizer

    directory = Path(source)
    final = Path(target)
    check_target(final)
    architecture, _ = read_architecture(directory)
    tokenizer = Tokenizer.load(directory)
    params, config = load_directory(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} entries, the embedding {config.vocab_size} rows; "
            "is it another model's tokenizer?"
        )
    temporary = final.parent / f".tmp-{final.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        draft = Draft(
            final=epath.Path(final),
            directory=epath.Path(temporary),
            stage="import",
            name=final.name,
            config={},
            inputs={},
            key=artifact_key("import", {"architecture": architecture.model_type}, {}),
            resumed=False,
        )
        for path in [path for path, _ in leaves_of(params)]:  # numpy's arrays would be copied all at once by the save
            put_leaf(params, path, jax.numpy.asarray(leaf_at(params, path)))
        state = {"params": params}
        with Checkpoints(temporary / "checkpoints") as checkpoints:
            checkpoints.save(0, state, {"imported": directory.name})
            checkpoints.wait()
        write_json(temporary / "model.json", dataclasses.asdict(config))
        tokenizer.save(temporary / "tokenizer", max_length=config.max_seq_len)
        draft.add_output("checkpoint", "checkpoints", kind="checkpoint", digest=state_digest(state), step=0)
        draft.add_output("model", "model.json")
        draft.add_output("tokenizer", "tokenizer")
        published = read_json(directory / "config.json")
        draft.add_facts(
            source=directory.resolve().name,
            architecture=architecture.model_type if architecture.write_config else "phi",
            dtype=published.get("dtype") or published.get("torch_dtype") or "float32",
            parameters=sum(value.size for _, value in leaves_of(params)),
        )
        return draft.commit()
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
