"""`phi-jax import` and `phi-jax export` of published models: both ways, and every wrong input in one line."""

import collections
import json
import shutil

import numpy as np
import pytest
from config_fields import CASES
from published import CODEGEN, PHI, codegen_shapes, phi_shapes, publish, random_tensors
from running import phi_jax
from safetensors.numpy import load_file, save_file

from phi_jax.errors import UserError
from phi_jax.store.artifact import Artifact, open_draft, write_json
from phi_jax.weights import export as exporting
from phi_jax.weights import huggingface, tensor_files
from phi_jax.weights.export import export_checkpoint
from phi_jax.weights.importing import import_directory
from phi_jax.weights.lint import lint
from phi_jax.weights.models import load_model, open_training

PUBLISHED = {"phi": (PHI, phi_shapes(PHI)), "codegen": (CODEGEN, codegen_shapes(CODEGEN))}


def published(directory, architecture="phi"):
    config, shapes = PUBLISHED[architecture]
    return publish(directory, config, random_tensors(shapes))


def export(checkpoint, directory, **options):
    defaults = {"dtype": "float16", "architecture": None, "licence": "mit", "gguf": False}
    export_checkpoint(str(checkpoint), str(directory), **{**defaults, **options})
    return directory


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_the_export_of_an_import_is_bit_for_bit_what_was_published(tmp_path, architecture):
    source = published(tmp_path / "source", architecture)
    artifact = import_directory(str(source), str(tmp_path / "imported"))
    again = export(tmp_path / "imported", tmp_path / "again")
    before, after = load_file(source / "model.safetensors"), load_file(again / "model.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == np.float16
        np.testing.assert_array_equal(after[name].view(np.uint16), tensor.view(np.uint16), err_msg=name)
    assert json.loads((again / "config.json").read_text())["model_type"] == architecture
    assert artifact.facts["architecture"] == architecture
    assert artifact.facts["dtype"] == "float16"
    assert artifact.facts["source"] == "source"
    if architecture == "phi":
        assert [str(finding) for finding in lint(again)] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "imported", "source"]
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"):
        assert (again / name).read_bytes() == (source / name).read_bytes(), name


def test_an_import_is_a_model_like_any_other(tmp_path):
    source = published(tmp_path / "source", "codegen")
    artifact = import_directory(str(source), str(tmp_path / "imported"))
    artifact.check(always_hash=True)
    a, config_a, tokenizer_a = load_model(source)
    b, config_b, tokenizer_b = load_model(tmp_path / "imported")
    assert config_a == config_b
    np.testing.assert_array_equal(a["layers"]["attention"]["q"]["kernel"], b["layers"]["attention"]["q"]["kernel"])
    assert tokenizer_a.encode("def f(x):\n    pass") == tokenizer_b.encode("def f(x):\n    pass")


def test_a_select_artifact_stands_for_its_training(tmp_path):
    training = import_directory(str(published(tmp_path / "source")), str(tmp_path / "import" / "base"))
    draft = open_draft(tmp_path, "select", "base", {}, {"training": training})
    write_json(draft.directory / "choice.json", {"step": 0, "candidates": [], "by": "validation_loss"})
    draft.add_output("choice", "choice.json")
    draft.commit()
    chosen = tmp_path / "select" / "base"
    found, step = open_training(chosen)
    assert (found.label, step) == ("import/base", 0)
    assert load_model(chosen)[1] == load_model(tmp_path / "source")[1]
    export(chosen, tmp_path / "m")
    with pytest.raises(UserError, match=r"step 7 is not kept; those are: \[0\]"):
        load_model(chosen, step=7)
    choice = chosen / "choice.json"
    choice.write_text(choice.read_text().replace("0", "1"))
    with pytest.raises(UserError, match=r"choice.json: not what manifest.json says"):
        load_model(chosen)
    (tmp_path / "import" / "base").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="import/base, of which it chose a step, is gone or was made again"):
        load_model(chosen)


def test_two_imports_have_one_identity(tmp_path):
    source = published(tmp_path / "source")
    identities = {import_directory(str(source), str(tmp_path / str(i))).identity for i in range(2)}
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.bias"][3] += 1
    save_file(tensors, source / "model.safetensors")
    identities.add(import_directory(str(source), str(tmp_path / "other")).identity)
    assert len(identities) == 2


def test_a_codegen_can_be_exported_as_a_phi(tmp_path):
    import_directory(str(published(tmp_path / "source", "codegen")), str(tmp_path / "imported"))
    as_phi = export(tmp_path / "imported", tmp_path / "phi", architecture="phi", dtype="float32")
    params, config, _ = load_model(as_phi)
    expected, expected_config, _ = load_model(tmp_path / "source")
    assert config == expected_config
    np.testing.assert_array_equal(
        params["layers"]["attention"]["k"]["kernel"], expected["layers"]["attention"]["k"]["kernel"]
    )


def test_the_command_line_and_its_card(tmp_path):
    source = published(tmp_path / "phi-tiny")
    done = phi_jax("import", "--hf", source, "--out", tmp_path / "imported")
    artifact = Artifact.read(tmp_path / "imported")
    assert done.stdout == (
        f"imported: {tmp_path / 'imported'}, {artifact.facts['parameters']:,} parameters, "
        f"identity {artifact.identity[:12]}\n"
    )
    phi_jax("export", "--checkpoint", tmp_path / "imported", "--out", tmp_path / "m", "--dtype", "float16",
            "--license", "mit")  # fmt: skip
    card = (tmp_path / "m" / "README.md").read_text()
    assert card.startswith('---\nlicense: "mit"\n')
    assert "weights of `phi-tiny`, a phi published in float16" in card
    assert str(tmp_path) not in card


@pytest.mark.parametrize(("architecture", "reaches"), [("phi", "queries times keys"), ("codegen", "residual")])
def test_an_export_that_overflows_float16_says_so(tmp_path, capsys, architecture, reaches):
    """float16 holds the weights, not what comes of them. Clients multiply a CodeGen's queries and keys in float32."""
    source = published(tmp_path / "source", architecture)
    norms = [name for name in PUBLISHED[architecture][1] if name.endswith(("input_layernorm.weight", "ln_1.weight"))]
    change_tensors(source, lambda tensors: [tensors[name].fill(300) for name in norms])
    import_directory(str(source), str(tmp_path / "imported"))
    again = export(tmp_path / "imported", tmp_path / "again")
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "float16" in line]
    assert warning.startswith(f"  warning: again: in float16 it overflows ({reaches} ")
    assert (
        f"Not for float16, which holds 65,504 at most: over a few texts its activations reach more ({reaches} "
        in (again / "README.md").read_text()
    )


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_every_field_of_a_config_is_read_refused_or_passed_over(tmp_path, architecture):
    """As the table says, which transformers' own logits hold to: tests/peers/test_config_fields.py."""
    usual, seen = PUBLISHED[architecture][0], collections.Counter()
    write_json(tmp_path / "config.json", usual)
    expected = huggingface.read_architecture(tmp_path)
    for _, does, field, value in [case for case in CASES if case[0] == architecture]:
        (tmp_path / "config.json").write_text(json.dumps({**usual, field: value}))
        try:
            found = huggingface.read_architecture(tmp_path)
        except UserError as error:
            said = str(error)
            assert (does != "passed over", str(tmp_path) in said, "\n" in said) == (True, True, False), (field, value)
            seen[does, "refused"] += 1
            continue
        is_other = type(value) in (int, float) and value != usual.get(field) and (field, value) != ("head_dim", 8)
        if does != "read" or not isinstance(value, dict):  # rope_parameters: their kinds are in the peers' test
            assert (found != expected) == (does == "read" and is_other), (field, value)
        seen[does, "read"] += 1
    assert min(seen["read", "read"], seen["read", "refused"], seen["refused", "refused"]) > 20


# --- Wrong input: one line that names it, and nothing left behind ----------------------------------------------


def change(directory, **changes):
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(directory, change):
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def not_a_number(tensors):
    tensors["model.layers.1.mlp.fc2.weight"][3, 4] = np.nan


WRONG = {
    "another architecture": (
        lambda d: change(d, model_type="llama"),
        "model_type is 'llama'; only 'phi', 'codegen'",
    ),
    "no config": (lambda d: (d / "config.json").unlink(), "config.json: no such file"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model.safetensors: missing"),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink() or (d / "vocab.json").unlink(), "tokenizer"),
    "a cut-off file": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-1]),
        "model.safetensors: cannot be read",
    ),
    "another shape": (
        lambda d: change(d, intermediate_size=129),
        "fc1.weight has shape (128, 32) in F16, config.json says (129",
    ),
    "not a number": (lambda d: change_tensors(d, not_a_number), "fc2.weight holds values that are not finite"),
    "a large tokenizer": (
        lambda d: (
            change(d, vocab_size=300),
            change_tensors(d, lambda t: t.update({n: t[n][:300] for n in t if t[n].shape[0] == 320})),
        ),
        "entries, the embedding 300 rows",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path, wrong):
    damage, complaint = WRONG[wrong]
    source = published(tmp_path / "source")
    damage(source)
    with pytest.raises(UserError) as error:
        import_directory(str(source), str(tmp_path / "imported"))
    assert complaint in str(error.value)
    assert str(source) in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_the_command_line_shows_one_line(tmp_path):
    source = published(tmp_path / "source")
    change(source, model_type="gpt2")
    done = phi_jax("import", "--hf", source, "--out", tmp_path / "imported", check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"phi-jax: error: {source / 'config.json'}: model_type is 'gpt2'; only 'phi', 'codegen' can be read; of a "
        "run, name e.g. W/export/finetuned/model\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_what_stands_at_the_target_stays(tmp_path):
    source = published(tmp_path / "source")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "precious").write_text("x")
    with pytest.raises(UserError, match="there: exists; name a new directory"):
        import_directory(str(source), str(tmp_path / "there"))
    import_directory(str(source), str(tmp_path / "imported"))
    with pytest.raises(UserError, match="there: exists; name a new directory"):
        export(tmp_path / "imported", tmp_path / "there")
    assert [p.name for p in (tmp_path / "there").iterdir()] == ["precious"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["imported", "source", "there"]


def test_an_interrupted_export_leaves_nothing_behind(tmp_path, monkeypatch):
    """Ctrl-C between two tensors, and while the model card is written."""
    import_directory(str(published(tmp_path / "source")), str(tmp_path / "imported"))
    monkeypatch.setattr(tensor_files, "SHARD_BYTES", 20_000)
    for module, function, allowed in ((huggingface, "_cast", 2), (exporting, "model_card", 0)):
        calls, real = [], getattr(module, function)

        def interrupted(*arguments, calls=calls, real=real, allowed=allowed, **options):
            calls.append(1)
            if len(calls) > allowed:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(module, function, interrupted)
            with pytest.raises(KeyboardInterrupt):
                export(tmp_path / "imported", tmp_path / "m")
        assert len(calls) == allowed + 1
        assert sorted(p.name for p in tmp_path.iterdir()) == ["imported", "source"]
    export(tmp_path / "imported", tmp_path / "m")


def test_an_export_that_cannot_be_is_one_line(tmp_path):
    import_directory(str(published(tmp_path / "source", "codegen")), str(tmp_path / "imported"))
    with pytest.raises(UserError, match=r"llama\.cpp has no architecture for a codegen; add --architecture phi"):
        export(tmp_path / "imported", tmp_path / "m", gguf=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["imported", "source"]


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(UserError, match="no whole training artifact there"):
        export(tmp_path / "nowhere", tmp_path / "m")
    import_directory(str(published(tmp_path / "source")), str(tmp_path / "imported"))
    (tmp_path / "imported" / "model.json").write_text("{}")
    with pytest.raises(UserError, match=r"model.json: not what manifest.json says"):
        export(tmp_path / "imported", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_saves_of_another_run_are_refused(tmp_path):
    """Whole and intact, but not those that the manifest speaks of."""
    source = published(tmp_path / "source")
    import_directory(str(source), str(tmp_path / "imported"))
    change_tensors(source, lambda tensors: tensors["lm_head.bias"].fill(1))
    import_directory(str(source), str(tmp_path / "other"))
    shutil.rmtree(tmp_path / "imported" / "checkpoints")
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "imported" / "checkpoints")
    for read in (load_model, lambda model: export(model, tmp_path / "m")):
        with pytest.raises(UserError, match="imported: its step 0 is another run's save; put back a good copy"):
            read(tmp_path / "imported")
