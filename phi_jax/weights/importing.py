"""`phi-jax import`: a published model becomes a training artifact, which trains on, samples and is exported again."""

import dataclasses
from pathlib import Path

from etils import epath

from phi_jax.model.flops import num_params
from phi_jax.store.artifact import Artifact, Draft, artifact_key, new_directory, write_json
from phi_jax.store.rows import read_object
from phi_jax.weights.checkpoints import Checkpoints
from phi_jax.weights.huggingface import load_directory, load_tokenizer, read_architecture


def import_directory(source: str, target: str) -> Artifact:
    """Reads a Phi or CodeGen directory, checked, and writes an artifact to `target`; see load_directory for errors.

    Weights are kept as float32, which holds float16 and bfloat16 exactly. Raises UserError too where the target exists
    or the tokenizer has more entries than the embedding; nothing is left half-written.
    """
    directory = Path(source)
    architecture, config = read_architecture(directory)
    tokenizer = load_tokenizer(directory, config)
    with new_directory(target) as temporary:
        params, _ = load_directory(directory)
        with Checkpoints(temporary / "checkpoints") as checkpoints:
            checkpoints.save(0, {"params": params}, {"imported": directory.name})
            digest = checkpoints.identity(0)
        write_json(temporary / "model.json", dataclasses.asdict(config))
        tokenizer.save(temporary / "tokenizer", max_length=config.max_seq_len)
        published = read_object(directory / "config.json")
        draft = Draft(
            final=epath.Path(temporary),
            directory=epath.Path(temporary),
            stage="import",
            name=Path(target).name,
            config={},
            inputs={},
            key=artifact_key("import", {"architecture": architecture.model_type}, {}),
            decides={},
        )
        draft.add_output("checkpoint", "checkpoints", kind="checkpoint", digest=digest, step=0)
        draft.add_output("model", "model.json")
        draft.add_output("tokenizer", "tokenizer")
        draft.add_facts(
            source=directory.resolve().name,
            architecture=architecture.model_type,
            dtype=published.get("dtype") or published.get("torch_dtype") or "float32",
            parameters=num_params(config),
        )
        made = draft.commit()
    return Artifact(epath.Path(target), made.manifest)
