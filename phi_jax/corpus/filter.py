"""Stage `filter`: embeddings of a pretrained model -> random forest on the grades -> the documents of the best scores.

Paper, section 2.1: a random forest on a pretrained codegen model's output embedding predicts the grade's label. It
gives neither the pooling, nor the forest's size, nor the threshold, only how much is kept (about 6B tokens): so here
the files of the highest scores are kept until a budget of tokens is spent.
"""

import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from etils import epath

from phi_jax.config import Config
from phi_jax.corpus.annotate import read_grades
from phi_jax.errors import UserError
from phi_jax.parallel.embedder import make_embedder
from phi_jax.store import documents
from phi_jax.store.artifact import Draft, Inputs, write_json
from phi_jax.store.python_text import from_first_code
from phi_jax.store.rows import Row
from phi_jax.tokens.tokenizer import Tokenizer

BINS = 20
EXAMPLES = 3  # files shown of the kept ones, and as many of the dropped ones
EXAMPLE_LINES = 30
_ID = documents.text_field("id")
_SCORE = pa.field("score", pa.float64())  # the forest's probability of "high"; null where there is no embedding
_TOKENS = pa.field("tokens", pa.int64())  # of the whole text, by the model's tokenizer
_VECTOR = ("vector", pa.list_(pa.float32()))  # null where there is no token
_SHOWN = ("path", pa.string()), ("source", pa.string()), ("lines", pa.list_(pa.string()))  # of an example
_EMBEDDED = pa.schema([_ID, _TOKENS, _VECTOR, *_SHOWN])
_GRADE = ("grade", pa.float64())  # null where the file was not graded
_FLAGS = [pa.field(name, pa.bool_(), nullable=False) for name in ("kept", "held_out")]  # held out: unseen by the forest
_SCORED = pa.schema([_ID, _SCORE, _TOKENS, _GRADE, *_FLAGS])

# Texts -> (vectors [texts, D] float32, NaN where there is no token behind the opening comments; tokens of each text)
Embed = Callable[[Sequence[str]], tuple[np.ndarray, list[int]]]
Score = Callable[[np.ndarray], np.ndarray]  # vectors [N, D] -> probability of "high" [N] float64


def filter_documents(config: Config, inputs: Inputs, draft: Draft) -> None:
    """Stage `filter`: inputs {"documents", "grades" (of `annotate`), "model" (a training or select artifact)}.

    Outputs: "documents" (the kept rows with the columns `score` and `tokens`), "scores" (id, score, tokens, kept,
    grade, held_out of every document), "examples" (kept and dropped files side by side, JSON), "embeddings".
    Raises UserError for grades of one label only, and where nothing is kept.
    """
    from phi_jax.weights.models import load_model

    rules, source = config.filter, inputs["documents"].path("documents")
    params, shape, tokenizer = load_model(inputs["model"].directory)
    embed = make_embed(params, shape, tokenizer, rules)
    parts, embeddings = documents.parts(source), draft.directory / "embedded"
    documents.write_parts(
        embeddings, len(parts), lambda index: _embedded(parts[index], embed), _EMBEDDED,
        label=f"{draft.label} embeddings",
    )  # fmt: skip

    graded = {row["id"]: row for row in read_grades(inputs["grades"]) if row["label"] is not None}
    vectors = {
        row["id"]: np.array(row["vector"], np.float32)
        for row in documents.read(embeddings, ("id", "vector"))
        if row["id"] in graded and row["vector"] is not None
    }
    labels = {identifier: graded[identifier]["label"] for identifier in vectors}
    held_out = split_held_out(labels, rules.held_out)
    learnt = sorted(labels.keys() - held_out)
    score, out_of_bag = learn(
        np.stack([vectors[i] for i in learnt]), np.array([labels[i] == "high" for i in learnt]), rules, config.seed
    )
    # A graded file's plain score repeats its label: it would be preferred to one that was not graded.
    unbiased = dict(zip(learnt, out_of_bag.tolist(), strict=True))
    scored = list(_scores(embeddings, score))
    for row in scored:
        row["score"] = unbiased.get(row["id"], row["score"])
        row["grade"] = graded.get(row["id"], {}).get("grade")
        row["held_out"] = row["id"] in held_out
    kept = within_budget(scored, rules.token_budget)
    if not kept:
        raise UserError(
            f"config.filter.token_budget={rules.token_budget}: less than the tokens of the best file; raise it"
        )
    for row in scored:
        row["kept"] = row["id"] in kept
    schema = documents.schema_of(source)

    def written_rows(index: int) -> Iterator[Row]:
        rows = documents.read_part(parts[index], schema.names)
        return (row | kept[row["id"]] for row in rows if row["id"] in kept)

    documents.write_parts(
        draft.directory / "documents", len(parts), written_rows, schema.append(_SCORE).append(_TOKENS),
        label=f"{draft.label} writing",
    )  # fmt: skip
    documents.write_parts(draft.directory / "scores", 1, lambda _: scored, _SCORED, label=f"{draft.label} scores")
    write_json(draft.directory / "examples.json", _examples(embeddings, scored))

    written = documents.add_output(draft, "documents")
    documents.add_output(draft, "scores")
    draft.add_output("examples", "examples.json")
    # Not part of the identity: other hosts round differently, which shows in the scores where it matters.
    draft.add_output("embeddings", "embedded", kind="log", rows=len(scored))
    scores = [row["score"] for row in scored if row["score"] is not None]
    scores_kept = [row["score"] for row in kept.values()]
    draft.add_facts(
        written_by=inputs["documents"].facts["written_by"],
        grader=inputs["grades"].facts["grader"],
        scored=len(scores),
        unscored=len(scored) - len(scores),
        kept=written.rows,
        bytes=written.bytes,
        tokens=sum(row["tokens"] for row in kept.values()),
        threshold=min(scores_kept),
        learnt=dict(Counter(labels[i] for i in learnt)),
        **quality([{**row, "label": labels[row["id"]]} for row in scored if row["held_out"]]),
        histogram=_histogram(scores),
        histogram_kept=_histogram(scores_kept),
    )


def _histogram(scores: Sequence[float]) -> list[int]:
    """Counts in BINS equal bins from 0 to 1."""
    return np.histogram(scores, BINS, (0, 1))[0].tolist()


# --- Embeddings ----------------------------------------------------------------------------------------------------


def make_embed(params: Any, shape: Any, tokenizer: Tokenizer, rules: Config) -> Embed:
    """What embeds texts by config.filter's rules, from the first code behind the comments that a text opens with; see
    parallel/embedder.py. Raises UserError for an unknown pooling.
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


def _embedded(part: epath.Path, embed: Embed) -> Iterator[Row]:
    rows = list(documents.read_part(part, ("id", "text", "path", "source")))
    for row, vector, tokens in zip(rows, *embed([row["text"] for row in rows]), strict=True):
        lines = from_first_code(row["text"]).split("\n")[:EXAMPLE_LINES]
        yield row | {"tokens": tokens, "vector": vector.tolist() if np.isfinite(vector).all() else None, "lines": lines}


def _scores(embeddings: epath.Path, score: Score) -> Iterator[Row]:
    """{"id", "tokens", "score"} of each document; the score is None where there is no embedding."""
    for path in documents.parts(embeddings):
        rows = list(documents.read_part(path, ("id", "tokens", "vector")))
        vectors = [row["vector"] for row in rows if row["vector"] is not None]
        scores = iter(score(np.array(vectors, np.float32)).tolist() if vectors else ())
        for row in rows:
            yield {"id": row["id"], "tokens": row["tokens"], "score": row["vector"] and next(scores)}


# --- The forest ----------------------------------------------------------------------------------------------------


def learn(vectors_NxD: np.ndarray, high_N: np.ndarray, rules: Config, seed: int) -> tuple[Score, np.ndarray]:
    """scikit-learn's random forest by config.filter's rules, a function of data and seed; and the scores [N] of the
    files it learnt from, each by the trees that did not see it.

    Both labels weigh the same, however rare one is: without that, the rarer one's recall falls.
    """
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(
        n_estimators=rules.trees, min_samples_leaf=rules.min_samples_leaf, class_weight="balanced", oob_score=True,
        random_state=seed, n_jobs=2,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a file that every tree saw: handled below
        forest.fit(vectors_NxD, high_N)
    # Threads would add the trees' votes in any order, which changes the last bits.
    forest.n_jobs = 1

    def score(vectors_NxD: np.ndarray) -> np.ndarray:
        return forest.predict_proba(vectors_NxD)[:, 1]

    unseen_Nx2 = forest.oob_decision_function_
    return score, np.where(unseen_Nx2.sum(1) > 0, unseen_Nx2[:, 1], score(vectors_NxD))


def split_held_out(labels: Mapping[str, str], share: float) -> set[str]:
    """Ids held out: the share of each label with the lowest hashes, at least one and never all of them.

    Raises UserError where a label has fewer than two files.
    """
    held_out = set()
    for label in ("high", "low"):
        ids = sorted((i for i in labels if labels[i] == label), key=lambda i: (documents.uniform(i, "held out"), i))
        if len(ids) < 2:
            raise UserError(
                f"grades: {len(ids)} of {len(labels)} files are labelled {label}, to learn from and to test on takes "
                "two; raise config.annotate.max_files or change config.annotate.high_share"
            )
        held_out.update(ids[: min(max(1, round(share * len(ids))), len(ids) - 1)])
    return held_out


def quality(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How well scores tell labels ("label", "score"), on files that the forest has not seen: "roc_auc", and "recall" of
    each label at a score of 0.5.
    """
    from sklearn.metrics import recall_score, roc_auc_score

    high, scores = [row["label"] == "high" for row in rows], np.array([row["score"] for row in rows])
    recall = recall_score(high, scores >= 0.5, average=None, labels=[True, False]).tolist()
    return {
        "roc_auc": round(float(roc_auc_score(high, scores)), 6),
        "recall": {"high": round(recall[0], 6), "low": round(recall[1], 6)},
    }


# --- What is kept --------------------------------------------------------------------------------------------------


def within_budget(scored: Iterable[Row], budget: int) -> dict[str, Row]:
    """id -> row of the best files, best first (ties by id), up to the first that would exceed the budget of tokens."""
    ranked = sorted((row for row in scored if row["score"] is not None), key=lambda row: (-row["score"], row["id"]))
    spent = itertools.accumulate(row["tokens"] for row in ranked)
    return {row["id"]: row for row, tokens in zip(ranked, spent, strict=True) if tokens <= budget}


def _examples(embeddings: epath.Path, scored: Iterable[Row]) -> dict[str, list[Row]]:
    """Files in the middle of the kept ones by score, and of the dropped ones: typical, not extreme."""
    ranked = sorted((row for row in scored if row["score"] is not None), key=lambda row: (row["score"], row["id"]))
    shown = {}
    for side in ("kept", "dropped"):
        on_side = [row for row in ranked if row["kept"] == (side == "kept")]
        middle = max(0, (len(on_side) - EXAMPLES) // 2)
        shown[side] = {row["id"]: row["score"] for row in on_side[middle : middle + EXAMPLES]}
    wanted = [*shown["kept"], *shown["dropped"]]
    rows = documents.read(embeddings, ("id", "path", "source", "lines"))
    files = {row["id"]: row for row in rows if row["id"] in wanted}
    return {side: [{**files[i], "score": score} for i, score in chosen.items()] for side, chosen in shown.items()}
