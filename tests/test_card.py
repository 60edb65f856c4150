"""The model card: its figures are those of manifests and scores.json, and nothing on it varies with host or time."""

import json
import re
import shutil

import pytest
from other_writers import WRITTEN, written_by

from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import Artifact
from phi_jax.weights.card import lineage, model_card, scores_of
from phi_jax.weights.export import export_checkpoint


@pytest.fixture(scope="module")
def run(micro_run, tmp_path_factory):
    return shutil.copytree(micro_run, tmp_path_factory.mktemp("card") / "run")


def facts(run, label):
    return json.loads((run / label / "manifest.json").read_text())["facts"]


def test_the_stage_writes_what_the_manifests_say(run):
    card = (run / "export" / "finetuned" / "model" / "README.md").read_text()
    assert card.startswith('---\nlicense: "other"\nmodel_name: "finetuned"\nlanguage: en\n')
    assert "\n# finetuned\n" in card
    collected, trained = facts(run, "collect/python"), facts(run, "finetune/finetuned")
    assert f"kept {collected['kept']:,} of {collected['files']:,} Python files" in card
    assert f"{trained['steps']:,} steps of 4 sequences, {trained['tokens']:,} tokens" in card
    assert f"a phi of {trained['parameters']:,} parameters" in card
    assert "the built-in grammar, no language model, wrote" in card
    assert "grammar, not by a language model" in card
    assert "grades computed from syntax, not by a language model" in card
    for label in ("collect/python", "filter/python", "pretrain/base", "finetune/finetuned"):
        identity = json.loads((run / label / "manifest.json").read_text())["identity"]
        assert re.search(rf"^\| `{label}` \| .+ \| `{identity[:12]}` \|$", card, re.M), label
    # A model's own history alone.
    assert "`finetune/raw+exercises`" not in card
    # Evaluation comes after the export.
    assert "None: no evaluation of these weights was at hand" in card


def card_of(run):
    model = Artifact.read(run / "finetune" / "finetuned")
    config = PhiConfig(**json.loads(model.path("model").read_text()))
    return model_card(model, config, name="m", parameters=1, dtype="float32", licence="other")


def test_who_wrote_and_who_graded_is_told(run, tmp_path):
    cards = {name: card_of(written_by(name, run, tmp_path / name)) for name in WRITTEN}
    for card in cards.values():
        assert "grammar" not in card
        assert "1,116 textbook sections and 818 exercises" in card
    both = "`gpt-4o-mini-2024-07-18`, `phi-350m`"
    assert f"| {both} wrote 1,116" in cards["teacher"]
    assert f"written by language models ({both})" in cards["teacher"]
    assert "`gpt-4.1-mini` graded 98 files by 300 votes, Krippendorff's alpha 0.73" in cards["teacher"]
    assert "grades that language models gave (`gpt-4.1-mini`)" in cards["teacher"]
    assert "syntax" not in cards["teacher"]
    assert "language models" not in cards["files"]
    assert "came as files: who or what wrote them" in cards["files"]
    assert "grades computed from syntax, not by a language model's" in cards["files"]


def test_how_far_from_peoples_texts_it_is(run, tmp_path):
    cards = {name: (run / "export" / name / "model" / "README.md").read_text() for name in ("raw", "finetuned")}
    assert "What it writes is of generation 1 (0: people's)" in cards["raw"]
    assert "of the tokens 100.0 % were written by people |" in cards["raw"]
    assert "What it writes is of generation 2 (0: people's)" in cards["finetuned"]
    assert "25.0 % were written by people, 75.0 % are of generation 1 |" in cards["finetuned"]
    unknown = "How far its training texts are from people's is not known"
    # What it was finetuned from is no longer there, or was itself begun from weights of somebody else.
    alone = shutil.copytree(run, tmp_path / "alone")
    shutil.rmtree(alone / "pretrain" / "base")
    assert unknown in card_of(alone)
    manifest = json.loads((run / "pretrain" / "raw" / "manifest.json").read_text())
    manifest["config"]["training"]["initial_checkpoint"] = "phi-2"
    started = Artifact(run / "pretrain" / "raw", manifest)
    config = PhiConfig(**json.loads(started.path("model").read_text()))
    about = {"name": "m", "parameters": 1, "dtype": "float32", "licence": "other"}
    assert unknown in model_card(started, config, **about)


def test_licences_are_those_of_the_documents(run):
    counts = facts(run, "collect/python")["by_license"]
    assert sum(counts.values()) == facts(run, "collect/python")["kept"]
    card = (run / "export" / "raw" / "model" / "README.md").read_text()
    for name, count in list(counts.items())[:12]:
        assert f"| {name} | {count:,} |" in card
    assert "No licence was chosen" in card


def test_the_tool_form_adds_the_scores_of_that_model(run, tmp_path):
    export_checkpoint(
        str(run / "finetune" / "finetuned"), str(tmp_path / "m"),
        dtype="float32", architecture=None, licence="apache-2.0", gguf=False,
    )  # fmt: skip
    card = (tmp_path / "m" / "README.md").read_text()
    assert "These weights: apache-2.0." in card
    own = json.loads((run / "evaluate" / "finetuned" / "scores.json").read_text())
    assert {s["benchmark"] for s in own} == {"nano", "idioms"}
    for s in own:
        row = f"| {s['benchmark']} | pass@1, {s['decoding']}, prompt {s['prompt_form']} | {100 * s['value']:.1f} % |"
        assert row in card
        assert f"| {100 * s['low']:.1f} % to {100 * s['high']:.1f} % | {s['problems']} | {s['samples']} |" in card


def test_scores_of_other_weights_are_not_its_own(run):
    base, finetuned = (Artifact.read(run / label) for label in ("pretrain/base", "finetune/finetuned"))
    assert {s["model"] for s in scores_of(base, run)} == {"base"}
    assert {s["model"] for s in scores_of(finetuned, run)} == {"finetuned"}
    stranger = Artifact(base.directory, {**base.manifest, "identity": "0" * 64})
    assert scores_of(stranger, run) == []
    assert scores_of(base, run / "nowhere") == []


def test_an_input_that_was_made_again_is_no_ancestor(run):
    model = Artifact.read(run / "finetune" / "finetuned")
    labels = [a.label for a in lineage(model)]
    assert labels[0] == "collect/python"
    assert labels.index("pretrain/raw") < labels.index("filter/python") < labels.index("pretrain/base")
    path = run / "filter" / "python" / "manifest.json"
    whole = path.read_text()
    path.write_text(whole.replace(json.loads(whole)["identity"], "0" * 64))
    try:
        assert "filter/python" not in [a.label for a in lineage(model)]
    finally:
        path.write_text(whole)


def test_the_same_model_has_the_same_card(run, tmp_path):
    model = Artifact.read(run / "pretrain" / "base")
    config = PhiConfig(**json.loads(model.path("model").read_text()))
    about = {"name": "base", "parameters": 1, "dtype": "float32", "licence": "other"}
    elsewhere = Artifact.read(shutil.copytree(run, tmp_path / "elsewhere") / "pretrain" / "base")
    changed = {**elsewhere.manifest, "seconds": 1e9, "git_revision": "x", "versions": {}}
    other = model_card(Artifact(elsewhere.directory, changed), config, **about)
    assert model_card(model, config, **about) == other
    assert str(run) not in other
