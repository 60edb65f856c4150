"""Stage `filter`: embeddings of a pretrained model -> a classifier of the grades -> the documents of the best scores.

Paper, section 2.1: a random forest on a pretrained codegen model's output embedding predicts the grade's label. It
gives neither the pooling, nor the forest's size, nor the threshold, only how much is kept (about 6B tokens): so here
the files of the highest scores are kept until a budget of tokens is spent.

Several processes embed the parts by turns, each on its own devices; process 0 does the rest.
"""

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from etils.epath import Path

from phi_jax.config import Config
from phi_jax.corpus.annotate import read_grades
from phi_jax.corpus.classifier import Score, calibration, learn, roc_auc, split_held_out
from phi_jax.errors import UserError
from phi_jax.parallel import processes
from phi_jax.parallel.embedder import make_embedder
from phi_jax.parallel.watch import Watch
from phi_jax.store import documents
from phi_jax.store.artifact import Draft, Inputs, write_json
from phi_jax.store.python_text import from_first_code
from phi_jax.store.rows import Row
from phi_jax.tokens.tokenizer import Tokenizer

EXAMPLES = 3  # files shown of the kept ones, and as many of the dropped ones
AT_THRESHOLD = 10  # files shown on either side of it
EXAMPLE_LINES = 30
_ID = documents.text_field("id")
_SCORE = pa.field("score", pa.float64())  # probability of "high"; null where there is no embedding
_TOKENS = pa.field("tokens", pa.int64())  # of the whole text, by the model's tokenizer
_VECTOR = ("vector", pa.list_(pa.float32()))  # null where there is no token
_SHOWN = ("path", pa.string()), ("source", pa.string()), ("lines", pa.list_(pa.string()))  # of an example
_EMBEDDED = pa.schema([_ID, _TOKENS, _VECTOR, *_SHOWN])
_GRADE = ("grade", pa.float64())  # null where the file was not graded
_FLAGS = [pa.field(name, pa.bool_(), nullable=False) for name in ("kept", "held_out")]  # held out: no head saw it
_SCORED = pa.schema([_ID, _SCORE, _TOKENS, _GRADE, *_FLAGS])

# Texts -> (vectors [texts, D] float32, NaN where there is no token behind the opening comments; tokens of each text)
Embed = Callable[[Sequence[str]], tuple[np.ndarray, list[int]]]


def filter_documents(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `filter`: inputs {"documents", "grades" (of `annotate`), "model" (a training or select artifact; none where
    config.filter.model is a directory)}.

    Outputs: "documents" (the kept rows with the columns `score` and `tokens`), "scores" (id, score, tokens, kept,
    grade, held_out of every document), "examples" (kept and dropped files side by side, JSON), "embeddings".
    Raises UserError where a label has too few files to learn from, and where nothing is kept.
    """
    from phi_jax.weights.models import load_model

    rules, parts = config.filter, documents.parts(inputs["documents"].path("documents"))
    with contextlib.ExitStack() as opened:
        if processes.is_connected():
            opened.enter_context(Watch(draft.label, peer_timeout=60))
        model = inputs["model"].directory if "model" in inputs else rules.model
        embed = make_embed(*load_model(model), rules)
        documents.write_parts(
            draft.directory / "embedded", len(parts), lambda index: _embedded(parts[index], embed), _EMBEDDED,
            label=f"{draft.label} embeddings", share=slice(processes.index(), None, processes.count()),
        )  # fmt: skip
        processes.gather(None)  # every part is there
        processes.on_leader(lambda: _keep(config, inputs, draft))


def check(config: Config, name: str) -> None:
    """Raises UserError where config.filter.model, a directory, holds no model."""
    from phi_jax.weights.models import shape_of

    shape_of(config.filter.model)


def _keep(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Learns from the grades, scores every document by its embedding, and writes the outputs."""
    rules, source, embeddings = config.filter, inputs["documents"].path("documents"), draft.directory / "embedded"
    graded = {row["id"]: row for row in read_grades(inputs["grades"]) if row["label"] is not None}
    vectors = {
        row["id"]: np.array(row["vector"], np.float32)
        for row in documents.read(embeddings, ("id", "vector"))
        if row["id"] in graded and row["vector"] is not None
    }
    labels = {identifier: graded[identifier]["label"] for identifier in vectors}
    held_out = split_held_out(labels, rules.held_out)
    ids = sorted(labels.keys() - held_out)
    head, unseen_N, rocs = learn(
        np.stack([vectors[i] for i in ids]), np.array([labels[i] == "high" for i in ids]), rules, config.seed
    )
    # A graded file's plain score repeats its label: it would be preferred to one that was not graded.
    unbiased = dict(zip(ids, unseen_N.tolist(), strict=True))
    scored = list(_scores(embeddings, head))
    for row in scored:
        score, grade = unbiased.get(row["id"], row["score"]), graded.get(row["id"], {}).get("grade")
        row |= {"score": score, "grade": grade, "held_out": row["id"] in held_out}
    ranking = ranked(scored)
    kept = within_budget(ranking, rules.token_budget)
    if not kept:
        raise UserError(
            f"config.filter.token_budget={rules.token_budget}: less than the tokens of the best file; raise it"
        )
    for row in scored:
        row["kept"] = row["id"] in kept
    parts = documents.parts(source)
    schema = documents.schema_of(parts[0])

    def written_rows(index: int) -> Iterator[Row]:
        rows = documents.read_part(parts[index], schema.names)
        return (row | kept[row["id"]] for row in rows if row["id"] in kept)

    documents.write_parts(
        draft.directory / "documents", len(parts), written_rows, schema.append(_SCORE).append(_TOKENS),
        label=f"{draft.label} writing",
    )  # fmt: skip
    documents.write_parts(draft.directory / "scores", 1, lambda _: scored, _SCORED, label=f"{draft.label} scores")
    write_json(draft.directory / "examples.json", _examples(embeddings, ranking[: len(kept)], ranking[len(kept) :]))

    written = documents.add_output(draft, "documents")
    documents.add_output(draft, "scores")
    draft.add_output("examples", "examples.json")
    # Not part of the identity: other hosts round differently, which shows in the scores where it matters.
    draft.add_output("embeddings", "embedded", kind="log", rows=len(scored))
    told = [{**row, "label": labels[row["id"]]} for row in scored if row["id"] in labels]
    draft.add_facts(
        written_by=inputs["documents"].facts["written_by"],
        grader=inputs["grades"].facts["grader"],
        scored=len(ranking),
        unscored=len(scored) - len(ranking),
        kept=written.rows,
        bytes=written.bytes,
        tokens=sum(row["tokens"] for row in kept.values()),
        threshold=min(row["score"] for row in kept.values()),
        learnt=dict(Counter(labels[i] for i in ids)),
        cross_validated_roc_auc=rocs,
        roc_auc=roc_auc([row for row in told if row["held_out"]]),
        calibration=calibration(told),
    )


# --- Embeddings ----------------------------------------------------------------------------------------------------


def make_embed(params: Any, shape: Any, tokenizer: Tokenizer, rules: Config) -> Embed:
    """What embeds texts by config.filter's rules, from the first code behind the comments that a text opens with; see
    parallel/embedder.py.
    """
    embed_tokens = make_embedder(params, shape, rules)

    def embed_texts(texts: Sequence[str]) -> tuple[np.ndarray, list[int]]:
        # A licence says the same of every file of a package: with it, 887 of nano's 3,756 files fell into one of the
        # 20 bins of the scores, and the ROC AUC was 0.74 instead of 0.78 (128 tokens).
        codes = [from_first_code(text) for text in texts]
        encoded = tokenizer.encode_batch(codes)
        # So each text is encoded once, in two pieces; a letter stands for the code that ends the comments' last token.
        letters = ["x" if code else "" for code in codes]
        opening = [text.removesuffix(code) + x for text, code, x in zip(texts, codes, letters, strict=True)]
        counts = [
            len(before) - len(x) + len(ids)
            for before, x, ids in zip(tokenizer.encode_batch(opening), letters, encoded, strict=True)
        ]
        return embed_tokens(encoded), counts

    return embed_texts


def _embedded(part: Path, embed: Embed) -> Iterator[Row]:
    rows = list(documents.read_part(part, ("id", "text", "path", "source")))
    for row, vector, tokens in zip(rows, *embed([row["text"] for row in rows]), strict=True):
        lines = from_first_code(row["text"]).split("\n")[:EXAMPLE_LINES]
        yield row | {"tokens": tokens, "vector": vector.tolist() if np.isfinite(vector).all() else None, "lines": lines}


def _scores(embeddings: Path, score: Score) -> Iterator[Row]:
    """{"id", "tokens", "score"} of each document; the score is None where there is no embedding."""
    for path in documents.parts(embeddings):
        rows = list(documents.read_part(path, ("id", "tokens", "vector")))
        vectors = [row["vector"] for row in rows if row["vector"] is not None]
        scores = iter(score(np.array(vectors, np.float32)).tolist() if vectors else ())
        for row in rows:
            yield {"id": row["id"], "tokens": row["tokens"], "score": row["vector"] and next(scores)}


# --- What is kept --------------------------------------------------------------------------------------------------


def ranked(scored: Iterable[Row]) -> list[Row]:
    """The rows that have a score, the best first, ties by id."""
    return sorted((row for row in scored if row["score"] is not None), key=lambda row: (-row["score"], row["id"]))


def within_budget(ranking: Sequence[Row], budget: int) -> dict[str, Row]:
    """id -> row of the first files, up to the first that would exceed the budget of tokens."""
    spent = itertools.accumulate(row["tokens"] for row in ranking)
    return {row["id"]: row for row, tokens in zip(ranking, spent, strict=True) if tokens <= budget}


def _examples(embeddings: Path, kept: Sequence[Row], dropped: Sequence[Row]) -> dict[str, list[Row]]:
    """Of both, the best first: files in the middle by score, typical, not extreme; and those just "above" and "below"
    the threshold.
    """
    chosen = {"above": kept[-AT_THRESHOLD:], "below": dropped[:AT_THRESHOLD]}
    for name, side in (("kept", kept), ("dropped", dropped)):
        chosen[name] = side[len(side) // 2 - EXAMPLES // 2 :][:EXAMPLES]
    wanted = {row["id"] for rows in chosen.values() for row in rows}
    found = documents.read(embeddings, ("id", "path", "source", "lines"))
    files = {row["id"]: row for row in found if row["id"] in wanted}
    return {name: [{**files[row["id"]], "score": row["score"]} for row in rows] for name, rows in chosen.items()}
