"""The model card: its figures are those of manifests and scores.json, and nothing on it varies with host or time."""

import json

import pytest

from phi_jax.model.phi import PhiConfig
from phi_jax.store.artifact import Artifact, open_draft, write_json
from phi_jax.weights.card import lineage, model_card, scores_of

SHAPE = PhiConfig(vocab_size=352, hidden_size=32, intermediate_size=128, num_layers=2, num_heads=2, head_dim=16,
                  rotary_dim=8, max_seq_len=64)  # fmt: skip
SCORE = {
    "model": "base", "benchmark": "idioms", "prompt_form": "stripped", "metric": "pass@1", "decoding": "greedy",
    "value": 0.251, "low": 0.2, "high": 0.3, "problems": 40, "samples": 40,
}  # fmt: skip
FACTS = {
    "collect/python": {
        "kept": 1200, "files": 1300, "bytes": 99_000, "set_aside": {"tiny": 90, "huge": 10}, "masked": {"EMAIL": 1234},
    },
    "dedup/python": {"kept": 1100, "documents": 1200, "exact": 60, "near": 40},
    "synthesize/teacher": {
        "written_by": "writer:0.8,ours:0.2", "textbooks": {"kept": 1116}, "exercises": {"kept": 818},
        "teachers": {"writer": {"model": "gpt-x"}, "ours": {"model": "phi-350m"}},
    },
    "annotate/python": {"graded": 98, "grader": "static"},
    "tokenize/raw": {
        "tokens": 900_000, "vocab_size": 352,
        "sources": [["lib|1", "mit", 1000, 675_000], ["lib|1", "psf|2", 100, 225_000]],
    },
    "pretrain/base": {"steps": 2400, "tokens": 614_400, "epochs": 1.5, "people_share": 0.25},
    "select/base": {},
    "export/base": {},
    "evaluate/base": {},
}  # fmt: skip
INPUTS = {
    "dedup/python": {"documents": "collect/python"},
    "annotate/python": {"documents": "dedup/python"},
    "tokenize/raw": {"documents": "dedup/python"},
    "pretrain/base": {"raw": "tokenize/raw", "a": "annotate/python", "b": "synthesize/teacher"},
    "select/base": {"training": "pretrain/base"},
    "export/base": {"checkpoint": "select/base"},
    "evaluate/base": {"model": "export/base"},
}


def make(workdir, **changed):
    """Label -> artifact of a run. changed: facts of a stage, by its stage's name."""
    made = {}
    for label, facts in FACTS.items():
        stage, name = label.split("/")
        inputs = {key: made[source] for key, source in INPUTS.get(label, {}).items()}
        draft = open_draft(workdir, stage, name, {}, inputs)
        write_json(draft.directory / "scores.json", [SCORE])
        draft.add_output("scores.json", "scores.json")
        draft.add_facts(**facts | changed.get(stage, {}))
        made[label] = draft.commit()
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("card") / "run")


ABOUT = {"weights": "step 2,400 in float16", "peaks": {"residual": 316.7, "norm": 6.3}, "name": "m", "licence": "other"}


def card_of(source, **options):
    return model_card(source, SHAPE, **{**ABOUT, **options})


def test_a_card_says_what_the_manifests_say(made):
    card = card_of(made["select/base"])
    assert card.startswith('---\nlicense: "other"\nmodel_name: "m"\nlanguage: en\n')
    assert "a phi of 48,224 parameters" in card
    assert "weights of step 2,400 in float16" in card
    for label, did in {
        "collect/python": "kept 1,200 of 1,300 Python files, 99,000 bytes; set aside: 90 tiny, 10 huge; "
        "masked: 1,234 EMAIL",
        "synthesize/teacher": "1,116 textbook sections and 818 exercises, written by writer:0.8,ours:0.2",
        "pretrain/base": "2,400 steps, 614,400 tokens (1.5 epochs); people wrote 25.0 % of the tokens",
        "select/base": "chose one of the saves of that training",
    }.items():
        assert f"| `{label}` | {did} | `{made[label].identity[:12]}` |" in card
    assert "`export/base`" not in card
    assert "None: no evaluation of these weights was at hand" in card
    assert "`tokenize/raw`:\n\n| source | licence | texts | tokens | share |\n" in card
    assert "| lib\\|1 | mit | 1,000 | 675,000 | 75.0 % |\n| lib\\|1 | psf\\|2 | 100 | 225,000 | 25.0 % |\n" in card
    assert "No licence was chosen" in card
    assert "These weights: mit." in card_of(made["select/base"], licence="mit")


def test_how_far_activations_reach_is_told(made):
    assert "its largest activation is 3.2e+02 (residual); float16 holds 65,504" in card_of(made["select/base"])
    card = card_of(made["select/base"], peaks={"queries times keys": 2.8e6, "residual": 65505.0, "norm": 65504.0})
    assert "Not for float16, which holds 65,504 at most" in card
    assert "reach more (queries times keys 2.8e+06, residual 6.6e+04), and" in card


def test_who_wrote_and_who_graded_is_told(made, tmp_path):
    card = card_of(made["pretrain/base"])
    assert "written by language models (`gpt-x`, `phi-350m`)" in card
    assert "grades computed from syntax, not by a language model" in card
    other = make(tmp_path / "run", synthesize={"written_by": "grammar"}, annotate={"grader": "llm"})
    card = card_of(other["pretrain/base"])
    assert "built-in grammar, not by a language model" in card
    assert "grades that language models gave" in card


def test_licence_writer_and_terms_of_texts_that_came_as_files(tmp_path):
    given = {"written_by": "files", "textbooks": {"kept": 1}, "exercises": {"kept": 2}}
    about = {"license": "CC-BY-NC-4.0", "teacher": "gpt-x", "terms": "Not for sale."}
    card = card_of(make(tmp_path / "known", synthesize=given | about)["pretrain/base"])
    assert (
        "The texts of `synthesize/teacher` came as files: licence CC-BY-NC-4.0, written by gpt-x. Not for sale." in card
    )
    assert "came as files; see their licences." in card
    card = card_of(make(tmp_path / "unknown", synthesize=given)["pretrain/base"])
    assert "came as files: who or what wrote them, and on what terms, is not known here." in card


def test_scores_are_those_of_this_very_model(made):
    assert scores_of(made["select/base"]) == [SCORE]
    assert scores_of(made["pretrain/base"]) == []
    row = "| idioms | pass@1, greedy, prompt stripped | 25.1 % | 20.0 % to 30.0 % | 40 | 40 |"
    assert row in card_of(made["select/base"], scores=[SCORE])


def test_an_input_that_was_made_again_is_no_ancestor(tmp_path):
    made = make(tmp_path / "run")
    assert [a.label for a in lineage(made["pretrain/base"])] == [
        "collect/python", "dedup/python", "tokenize/raw", "annotate/python", "synthesize/teacher",
    ]  # fmt: skip
    path = tmp_path / "run" / "dedup" / "python" / "manifest.json"
    path.write_text(path.read_text().replace(made["dedup/python"].identity, "0" * 64))
    assert [a.label for a in lineage(made["pretrain/base"])] == [
        "tokenize/raw", "annotate/python", "synthesize/teacher",
    ]  # fmt: skip


def test_the_same_model_has_the_same_card(made, tmp_path):
    elsewhere = make(tmp_path / "elsewhere")["select/base"]
    changed = {**elsewhere.manifest, "seconds": 1e9, "git_revision": "x", "versions": {}}
    other = card_of(Artifact(elsewhere.directory, changed))
    assert card_of(made["select/base"]) == other
    assert str(tmp_path) not in other


def test_facts_of_another_version_are_left_out(made):
    manifest = json.loads(json.dumps(made["pretrain/base"].manifest)) | {"facts": {"steps": 3}}
    assert "| `pretrain/base` |  | `" in card_of(Artifact(made["pretrain/base"].directory, manifest))
