"""Stage `filter`: embeddings of a pretrained model -> random forest on the grades -> the documents of the best scores.

Paper, section 2.1: a random forest on a pretrained codegen model's output embedding predicts the grade's label. It
gives neither the pooling, nor the forest's size, nor the threshold, only how much is kept (about 6B tokens): so here
the files of the highest scores are kept until a budget of tokens is spent.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from etils import epath

from phi_jax.config import Config
from phi_jax.corpus.annotate import histogram, read_grades
from phi_jax.errors import UserError
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, write_json
from phi_jax.store.python_text import from_first_code

if TYPE_CHECKING:
    from phi_jax.tokens.tokenizer import Tokenizer

BINS = 20
BANDS = 5  # of grades, in which recall is told
EXAMPLES = 3  # files shown of the kept ones, and as many of the dropped ones
EXAMPLE_LINES = 30
_CHARACTERS_PER_TOKEN = 32  # characters looked at for each token that is embedded; a run of 31 spaces is one token
_ID = pa.field("id", pa.string(), nullable=False)
_SCORE = pa.field("score", pa.float64())  # the forest's probability of "high"; null where there is no embedding
_TOKENS = pa.field("tokens", pa.int64())  # of the whole text, by the model's tokenizer
_EMBEDDED = pa.schema([_ID, _TOKENS, pa.field("vector", pa.list_(pa.float32()))])  # null where there is no token
_GRADE = pa.field("grade", pa.float64())  # null where the file was not graded
_FLAGS = [pa.field(name, pa.bool_(), nullable=False) for name in ("kept", "held_out")]  # held out: unseen by the forest
_SCORED = pa.schema([_ID, _SCORE, _TOKENS, _GRADE, *_FLAGS])

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> [texts, D] float32; a row of NaN where there is no token


def filter_documents(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `filter`: inputs {"documents", "grades" (of `annotate`), "model" (a training or select artifact)}.

    Outputs: "documents" (the kept rows with the columns `score` and `tokens`), "scores" (id, score, tokens, kept,
    grade, held_out of every document), "examples" (kept and dropped files side by side, JSON), "embeddings".
    Raises UserError for grades of one label only, and where nothing is kept.
    """
    import jax

    from phi_jax.weights.models import load_model

    rules, source = config.filter, inputs["documents"].path("documents")
    params, shape, tokenizer = load_model(inputs["model"].directory)
    embed = make_embed(
        jax.device_put(params), shape, tokenizer,
        tokens=rules.embed_tokens, pooling=rules.pooling, batch_size=rules.batch_size,
    )  # fmt: skip
    documents.map_parts(
        source, draft.directory / "embeddings", lambda rows: _embedded(list(rows), embed, tokenizer),
        schema=_EMBEDDED, label=f"{draft.label} embeddings",
    )  # fmt: skip

    graded = {row["id"]: row for row in read_grades(inputs["grades"]) if row["label"] is not None}
    vectors = {
        row["id"]: np.array(row["vector"], np.float32)
        for row in documents.read(draft.directory / "embeddings", ("id", "vector"))
        if row["id"] in graded and row["vector"] is not None
    }
    labels = {identifier: graded[identifier]["label"] for identifier in vectors}
    held_out = split_held_out(labels, rules.held_out)
    learnt = sorted(labels.keys() - held_out)
    forest = Forest(
        np.stack([vectors[i] for i in learnt]), np.array([labels[i] == "high" for i in learnt]),
        trees=rules.trees, min_samples_leaf=rules.min_samples_leaf, seed=config.seed,
    )  # fmt: skip

    unbiased = dict(zip(learnt, forest.out_of_bag.tolist(), strict=True))
    scored = [
        {**row, "score": unbiased.get(row["id"], row["score"]), "held_out": row["id"] in held_out,
         "grade": graded[row["id"]]["grade"] if row["id"] in graded else None}
        for row in _scores(draft.directory / "embeddings", forest)
    ]  # fmt: skip
    kept = within_budget(scored, rules.token_budget)
    if not kept:
        raise UserError(
            f"config.filter.token_budget={rules.token_budget}: less than the tokens of the best file; raise it"
        )
    scored = [{**row, "kept": row["id"] in kept} for row in scored]
    schema = documents.schema_of(source)
    documents.map_parts(
        source, draft.directory / "documents", lambda rows: (r | kept[r["id"]] for r in rows if r["id"] in kept),
        schema.names, schema.append(_SCORE).append(_TOKENS), label=f"{draft.label} writing",
    )  # fmt: skip
    documents.write_parts(draft.directory / "scores", 1, lambda _: scored, _SCORED, label=f"{draft.label} scores")
    write_json(draft.directory / "examples.json", _examples(source, scored))

    written = documents.add_output(draft, "documents")
    documents.add_output(draft, "scores")
    draft.add_output("examples", "examples.json")
    # Not part of the identity: other hosts round differently, which shows in the scores where it matters.
    draft.add_output("embeddings", "embeddings", kind="log", rows=len(scored))
    scores = [row["score"] for row in scored if row["score"] is not None]
    scores_kept = [row["score"] for row in kept.values()]
    draft.add_facts(
        written_by=inputs["documents"].facts["written_by"],
        grader=inputs["grades"].facts["grader"],
        scored=len(scores),
        unscored=len(scored) - len(scores),
        kept=written.rows,
        dropped=len(scored) - written.rows,
        bytes=written.bytes,
        tokens=sum(row["tokens"] for row in kept.values()),
        threshold=min(scores_kept),
        learnt=dict(Counter(labels[i] for i in learnt)),
        **quality([{**row, "label": labels[row["id"]]} for row in scored if row["held_out"]]),
        histogram=histogram(scores, BINS),
        histogram_kept=histogram(scores_kept, BINS),
    )


# --- Embeddings ----------------------------------------------------------------------------------------------------


def make_embed(params: Any, shape: Any, tokenizer: Tokenizer, *, tokens: int, pooling: str, batch_size: int) -> Embed:
    """A function from texts to their vectors [texts, D] float32, compiled once for batches of one shape.

    tokens: first tokens of a text, behind the comments it opens with, that are embedded; cut to the model's context.
    A text without a token gets NaN. Raises UserError for an unknown pooling.
    """
    from phi_jax.model.embed import embed

    length = min(tokens, shape.max_seq_len)

    def embed_texts(texts: Sequence[str]) -> np.ndarray:
        # A licence says the same of every file of a package: with it, 887 of nano's 3,756 files fell into one of the
        # 20 bins of the scores, and the ROC AUC was 0.74 instead of 0.78 (128 tokens).
        beginnings = [from_first_code(text)[: length * _CHARACTERS_PER_TOKEN] for text in texts]
        encoded = [ids[:length] for ids in tokenizer.encode_batch(beginnings)]
        padded = -(-len(texts) // batch_size) * batch_size
        tokens_NxT, lengths_N = np.zeros((padded, length), np.int32), np.zeros(padded, np.int32)
        for row, ids in enumerate(encoded):
            tokens_NxT[row, : len(ids)], lengths_N[row] = ids, len(ids)
        batches = [slice(start, start + batch_size) for start in range(0, padded, batch_size)]
        # None is waited for here: on a CPU the next batch then runs beside it.
        pending = [embed(params, tokens_NxT[batch], lengths_N[batch], shape, pooling) for batch in batches]
        vectors_NxD = np.concatenate([np.empty((0, shape.hidden_size), np.float32), *map(np.asarray, pending)])
        vectors_NxD[lengths_N == 0] = np.nan
        return vectors_NxD[: len(texts)]

    return embed_texts


def _embedded(rows: Sequence[documents.Row], embed: Embed, tokenizer: Tokenizer) -> Iterator[documents.Row]:
    texts = [row["text"] for row in rows]
    for row, vector, ids in zip(rows, embed(texts), tokenizer.encode_batch(texts), strict=True):
        yield {"id": row["id"], "tokens": len(ids), "vector": vector.tolist() if np.isfinite(vector).all() else None}


def _scores(embeddings: epath.Path, forest: Forest) -> Iterator[documents.Row]:
    """{"id", "tokens", "score"} of each document; the score is None where there is no embedding."""
    for path in documents.parts(embeddings):
        rows = list(documents.read_part(path, _EMBEDDED.names))
        vectors = [row["vector"] for row in rows if row["vector"] is not None]
        scores = iter(forest.score(np.array(vectors, np.float32)).tolist() if vectors else ())
        for row in rows:
            score = None if row["vector"] is None else next(scores)
            yield {"id": row["id"], "tokens": row["tokens"], "score": score}


# --- The forest ----------------------------------------------------------------------------------------------------


class Forest:
    """scikit-learn's random forest from an embedding to the probability of "high"; a function of data and seed.

    Both labels weigh the same, however rare one is: without that, the rarer one's recall falls.
    """

    def __init__(
        self, vectors_NxD: np.ndarray, high_N: np.ndarray, *, trees: int, min_samples_leaf: int, seed: int
    ) -> None:
        from sklearn.ensemble import RandomForestClassifier

        self._forest = RandomForestClassifier(
            n_estimators=trees, min_samples_leaf=min_samples_leaf, class_weight="balanced", oob_score=True,
            random_state=seed, n_jobs=2,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a file that every tree saw: handled below
            self._forest.fit(vectors_NxD, high_N)
        # Threads would add the trees' votes in any order, which changes the last bits.
        self._forest.n_jobs = 1
        out_of_bag_Nx2 = self._forest.oob_decision_function_
        self.out_of_bag = np.where(out_of_bag_Nx2.sum(1) > 0, out_of_bag_Nx2[:, 1], self.score(vectors_NxD))
        """Scores [N] of the files it was trained on, each by the trees that did not see it.

        The plain scores repeat the labels: a graded file would be preferred to one that was not graded."""

    def score(self, vectors_NxD: np.ndarray) -> np.ndarray:
        """Probability of "high" [N] float64."""
        return self._forest.predict_proba(vectors_NxD)[:, 1]


def split_held_out(labels: Mapping[str, str], share: float) -> set[str]:
    """Ids held out: the share of each label with the lowest hashes, at least one and never all of them.

    Raises UserError where a label has fewer than two files.
    """
    held_out: set[str] = set()
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
    """How well scores tell labels, on files that the forest has not seen. rows: label, grade (0 to 1) and score.

    "roc_auc"; "recall" of each label at a score of 0.5, with its "recall_counts" [recognised, held out];
    "recall_bands", the same counts of the files whose grade lies in each of BANDS equal bands (1 falls into the last).
    Where the best files are few, the recall of "high" does not show that the forest misses just these (a replica with
    labels of GPT-5-nano found none of them).
    """
    from sklearn.metrics import roc_auc_score

    labels = {label: [0, 0] for label in ("high", "low")}
    bands = [[0, 0] for _ in range(BANDS)]
    for row in rows:
        right = (row["score"] >= 0.5) == (row["label"] == "high")
        for counts in (labels[row["label"]], bands[min(int(row["grade"] * BANDS), BANDS - 1)]):
            counts[0] += int(right)
            counts[1] += 1
    auc = roc_auc_score([row["label"] == "high" for row in rows], [row["score"] for row in rows])
    return {
        "roc_auc": round(float(auc), 6),
        "recall": {label: round(right / count, 6) for label, (right, count) in labels.items()},
        "recall_counts": labels,
        "recall_bands": bands,
    }


# --- What is kept --------------------------------------------------------------------------------------------------


def within_budget(scored: Iterable[documents.Row], budget: int) -> dict[str, documents.Row]:
    """id -> {"score", "tokens"} of the best files, best first (ties by id), up to the first that would exceed the
    budget of tokens.
    """
    kept: dict[str, documents.Row] = {}
    ranked = sorted((row for row in scored if row["score"] is not None), key=lambda row: (-row["score"], row["id"]))
    for row in ranked:
        budget -= row["tokens"]
        if budget < 0:
            break
        kept[row["id"]] = {"score": row["score"], "tokens": row["tokens"]}
    return kept


def _examples(source: epath.Path, scored: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Files in the middle of the kept ones by score, and of the dropped ones: typical, not extreme."""
    ranked = sorted((row for row in scored if row["score"] is not None), key=lambda row: (row["score"], row["id"]))
    shown = {}
    for side in ("kept", "dropped"):
        on_side = [row for row in ranked if row["kept"] == (side == "kept")]
        middle = max(0, (len(on_side) - EXAMPLES) // 2)
        shown[side] = on_side[middle : middle + EXAMPLES]
    wanted = {row["id"] for chosen in shown.values() for row in chosen}
    found: dict[str, documents.Row] = {}
    for path in documents.parts(source):
        if wanted & {row["id"] for row in documents.read_part(path, ("id",))}:  # elsewhere no text is read
            columns = ("id", "path", "source", "text")
            found |= {row["id"]: row for row in documents.read_part(path, columns) if row["id"] in wanted}

    def example(row: Mapping[str, Any]) -> dict[str, Any]:
        about = dict(found[row["id"]])
        lines = from_first_code(about.pop("text")).split("\n")[:EXAMPLE_LINES]
        return {**about, "score": row["score"], "grade": row["grade"], "lines": lines}

    return {side: [example(row) for row in chosen] for side, chosen in shown.items()}
