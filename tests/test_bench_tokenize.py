"""`phi-jax bench tokenize`: what it measures, on few texts; no figure of speed is asserted."""

import json

import pytest
from running import ROOT, phi_jax

from phi_jax.bench import tokenize
from phi_jax.tokens.tokenizer import Tokenizer, train

DOCUMENTS = ROOT / "phi_jax" / "tokens"


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench")
    train([p.read_text() for p in DOCUMENTS.glob("*.py")], 600).save(directory / "mine", max_length=64)
    options = (
        "--documents",
        DOCUMENTS,
        "--tokenizer",
        directory / "mine",
        "--rounds",
        3,
        "--out",
        directory / "r.json",
    )
    done = phi_jax("bench", "tokenize", *options)
    assert json.loads(done.stdout) == json.loads((directory / "r.json").read_text())
    assert "over 3 rounds" in done.stderr
    return json.loads(done.stdout)


def test_both_sides_encode_the_same_texts_in_turns_on_one_core(result):
    case = result["case"]
    texts = [p.read_text() for p in DOCUMENTS.glob("*.py")]
    assert (case["texts"], case["bytes"]) == (len(texts), sum(len(t.encode()) for t in texts))
    assert (case["core"], case["entries"], case["cores"]) == ("tiktoken", 600, 1)
    assert result["surroundings"]["cores"] == 1
    assert result["surroundings"]["environment"]["RAYON_NUM_THREADS"] == "1"
    assert len(result["rounds"]) == 3
    for pair in result["rounds"]:
        for figures in pair.values():
            assert figures["tokens"] == case["tokens"]
            assert figures["tokens_per_second"] * figures["cpu_seconds"] == pytest.approx(case["tokens"])
            assert figures["bytes_per_second"] * figures["cpu_seconds"] == pytest.approx(case["bytes"])
    ratio = result["ratio"]
    expected = [p["ours"]["tokens_per_second"] / p["peer"]["tokens_per_second"] for p in result["rounds"]]
    assert ratio["rounds"] == expected
    assert (ratio["low"], ratio["median"], ratio["high"]) == tuple(sorted(expected))


def test_a_result_holds_no_path_of_the_machine(result):
    assert result["case"]["tokenizer"] == "mine"
    assert result["case"]["documents"] == "tokens"
    assert set(result["surroundings"]["versions"]) == {"python", "tiktoken", "tokenizers"}
    assert "/" not in json.dumps(result["case"])


def test_the_sample_is_of_the_documents_alone(tmp_path):
    rows = [{"text": f"x = {n}\n" * n} for n in range(1, 40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no row\n")
    for n, row in enumerate(rows):
        (tmp_path / f"{n}.py").write_text(row["text"])
    sample = tokenize._sample(tmp_path / "rows.jsonl", 3000)
    assert sample == tokenize._sample(tmp_path, 3000)
    assert 3000 <= sum(len(text.encode()) for text in sample) < 3000 + max(len(row["text"]) for row in rows)
    assert len(tokenize._sample(tmp_path, 10**9)) == 39


def test_unequal_ids_get_no_ratio(monkeypatch):
    monkeypatch.setattr(Tokenizer, "encode_batch", lambda self, texts: [[0] for _ in texts])
    with pytest.raises(RuntimeError, match="different ids, so no ratio"):
        tokenize.measure(DOCUMENTS, None, 20_000, 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--documents", "nowhere"), "--documents nowhere: no such file or directory"),
        (("--documents", "tests/golden"), "holds no text"),
        (("--rounds", "0"), "--rounds 0: must be at least 1"),
        (("--out", "nowhere/r.json"), "there is no directory nowhere"),
        (("--documents", "phi_jax/tokens", "--tokenizer", "nowhere"), "neither a directory here nor to be had"),
    ],
)
def test_options_without_sense_are_one_line(arguments, words):
    done = phi_jax("bench", "tokenize", *arguments, check=False, env={"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 1
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
