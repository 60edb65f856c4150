"""Stage `filter`: embeddings of a pretrained model -> random forest on the grades -> the documents of the best scores.

Paper, section 2.1: a random forest on a pretrained codegen model's output embedding predicts the grade's label. It
gives neither the pooling, nor the forest's size, nor the threshold, only how much is kept (about 6B tokens): so here
the files of the highest scores are kept until a budget of tokens is spent.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from phi_jax.config import Config
from phi_jax.corpus.annotate import GRADERS, Grader, histogram, read_grades
from phi_jax.corpus.rubric import from_first_code, strip_comments
from phi_jax.errors import UserError
from phi_jax.progress import Progress
from phi_jax.store import documents
from phi_jax.store.artifact import Artifact, Draft, atomic_path, write_json

if TYPE_CHECKING:
    from phi_jax.tokens.tokenizer import Tokenizer

FILES_PER_PART = 512
BINS = 20
BANDS = 5  # of grades, in which recall is told
EXAMPLES = 3  # files shown of the kept ones, and as many of the dropped ones
EXAMPLE_LINES = 30
_CHARACTERS_PER_TOKEN = 8  # characters looked at for each token that is embedded
_ENCODE_BATCH = 256  # documents encoded at once
_SCORES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("score", pa.float64()),  # the forest's probability of "high"; null where there is no embedding
        pa.field("kept", pa.bool_(), nullable=False),
        pa.field("grade", pa.float64()),  # null where the file was not graded
        pa.field("held_out", pa.bool_(), nullable=False),  # graded, and unseen by the forest
    ]
)

Embed = Callable[[Sequence[str]], np.ndarray]  # texts -> [texts, D] float32; a row of NaN where there is no token


def filter_documents(config: Config, inputs: Mapping[str, Artifact], draft: Draft) -> None:
    """Stage `filter`: inputs {"documents", "grades" (of `annotate`), "model" (a training artifact)}.

    Outputs: "documents" (the kept rows and their column `score`), "scores" (id, score, kept, grade, held_out of every
    document), "examples" (kept and dropped files side by side, JSON), "embeddings" (NumPy parts [files, D] float32).
    Raises UserError for a field out of its range, for grades of one label only, and where nothing is kept.
    """
    import jax

    from phi_jax.weights.models import load_model

    rules = config.filter
    _check(rules)
    source, source_bytes = documents.document_set(inputs["documents"], "raw")
    grader = inputs["grades"].facts["grader"]
    params, shape, tokenizer = load_model(inputs["model"].directory)
    embed = make_embed(
        jax.device_put(params), shape, tokenizer,
        tokens=rules.embed_tokens, pooling=rules.pooling, batch_size=rules.batch_size,
    )  # fmt: skip

    # --- Embeddings, in parts that a killed run leaves behind -------------------------------------------------------
    directory = draft.directory / "embeddings"
    directory.mkdir(exist_ok=True)
    ids = [row["id"] for row in documents.read(source, ("id",))]
    _embed_documents(source, directory, len(ids), embed, f"{draft.label} embeddings")

    # --- The forest, learnt on the graded files that are not held out ------------------------------------------------
    grades = {row["id"]: row for row in read_grades(inputs["grades"].path("grades"))}
    positions = {identifier: index for index, identifier in enumerate(ids)}
    graded_vectors = dict(_vectors_of(directory, {positions[i] for i in grades if i in positions}))
    usable = {
        i: row
        for i, row in grades.items()
        if row["label"] is not None and i in positions and positions[i] in graded_vectors
    }
    held_out = split_held_out({i: row["label"] for i, row in usable.items()}, rules.held_out)
    learnt = sorted(usable.keys() - held_out)
    forest = Forest(
        np.stack([graded_vectors[positions[i]] for i in learnt]),
        np.array([usable[i]["label"] == "high" for i in learnt]),
        trees=rules.trees, min_samples_leaf=rules.min_samples_leaf, seed=config.seed,
    )  # fmt: skip
    scores = np.concatenate([forest.score(np.load(path)) for path in _embedding_parts(directory, len(ids))])
    for identifier, score in zip(learnt, forest.out_of_bag, strict=True):
        scores[positions[identifier]] = score

    # --- How good it is, and how much of that is comments ----------------------------------------------------------
    tested = sorted(held_out)
    quality = _quality(np.array([scores[positions[i]] for i in tested]), [usable[i]["label"] for i in tested])
    tested_rows = {i: {**usable[i], "score": float(scores[positions[i]])} for i in tested}
    comments = _comment_shares(source, tested_rows, GRADERS.get(grader), embed, forest)

    # --- What is kept ----------------------------------------------------------------------------------------------
    by_id = {identifier: float(score) for identifier, score in zip(ids, scores, strict=True)}
    finite = {identifier: score for identifier, score in by_id.items() if np.isfinite(score)}
    ranking = sorted(finite, key=lambda identifier: (-finite[identifier], identifier))
    guess = source_bytes / len(ids) / 3
    kept_tokens = _within_budget(ranking, rules.token_budget, guess, source, tokenizer)
    if not kept_tokens:
        raise UserError(
            f"config.filter.token_budget={rules.token_budget}: less than the tokens of the best file; raise it"
        )
    kept_bytes = _write_kept(source, draft.directory / "documents", by_id, kept_tokens)
    _write_scores(draft.directory / "scores.parquet", by_id, kept_tokens, grades, held_out)
    write_json(draft.directory / "examples.json", _examples(source, by_id, kept_tokens, grades))

    digest = documents.digest(draft.directory / "documents")
    draft.add_output("documents", "documents", kind="documents", digest=digest, rows=len(kept_tokens))
    draft.add_output("scores", "scores.parquet", rows=len(by_id))
    draft.add_output("examples", "examples.json")
    # Not part of the identity: other hosts round differently, which shows in the scores where it matters.
    draft.add_output("embeddings", "embeddings", kind="log", rows=len(ids))
    draft.add_facts(
        grader=grader,
        scored=len(finite),
        unscored=len(by_id) - len(finite),
        kept=len(kept_tokens),
        dropped=len(by_id) - len(kept_tokens),
        bytes=kept_bytes,
        tokens=sum(kept_tokens.values()),
        threshold=min(by_id[i] for i in kept_tokens),
        learnt=dict(Counter(usable[i]["label"] for i in learnt)),
        **quality,
        recall_bands=recall_bands(tested_rows.values()),
        **comments,
        histogram=histogram(list(finite.values()), BINS),
        histogram_kept=histogram([by_id[i] for i in kept_tokens], BINS),
        embedding_width=shape.hidden_size,
        embedding_tokens=min(rules.embed_tokens, shape.max_seq_len),
    )


def _check(rules: Config) -> None:
    for field in ("embed_tokens", "trees", "min_samples_leaf", "token_budget", "batch_size"):
        if getattr(rules, field) < 1:
            raise UserError(f"config.filter.{field}={getattr(rules, field)}: must be at least 1")
    if not 0 < rules.held_out < 1:
        raise UserError(f"config.filter.held_out={rules.held_out}: must lie between 0 and 1, both excluded")


# --- Embeddings ----------------------------------------------------------------------------------------------------


def make_embed(params: Any, shape: Any, tokenizer: Tokenizer, *, tokens: int, pooling: str, batch_size: int) -> Embed:
    """A function from texts to their vectors [texts, D] float32, compiled once for batches of one shape.

    tokens: first tokens of a text, behind the comments it opens with, that are embedded; cut to the model's context.
    A text without a token gets NaN.
    Raises UserError for an unknown pooling.
    """
    from phi_jax.model.embed import check_pooling, embed

    check_pooling(pooling)
    length = min(tokens, shape.max_seq_len)

    def embed_texts(texts: Sequence[str]) -> np.ndarray:
        encoded = _first_tokens(tokenizer, texts, length)
        vectors_NxD = np.full((len(texts), shape.hidden_size), np.nan, np.float32)
        pending = []
        for start in range(0, len(texts), batch_size):
            batch = encoded[start : start + batch_size]
            tokens_BxT = np.zeros((batch_size, length), np.int32)
            lengths_B = np.zeros(batch_size, np.int32)
            for row, ids in enumerate(batch):
                tokens_BxT[row, : len(ids)] = ids
                lengths_B[row] = len(ids)
            # Not waited for here: on a CPU the next batch then runs beside this one.
            pending.append(embed(params, tokens_BxT, lengths_B, shape, pooling))
        if pending:
            vectors_NxD[:] = np.concatenate([np.asarray(x) for x in pending])[: len(texts)]
        vectors_NxD[[not ids for ids in encoded]] = np.nan
        return vectors_NxD

    return embed_texts


def _first_tokens(tokenizer: Tokenizer, texts: Sequence[str], length: int) -> list[list[int]]:
    """The first `length` tokens of each text behind the comments it opens with; none where it is all comments.

    Only a text's beginning is encoded, where that gives enough tokens.
    """
    # A licence says the same of every file of a package: with it, 887 of nano's 3,756 files fell into one of the 20
    # bins of the scores, and the ROC AUC was 0.74 instead of 0.78 (128 tokens).
    texts = [from_first_code(text) for text in texts]
    cut = length * _CHARACTERS_PER_TOKEN
    encoded = tokenizer.encode_batch([text[:cut] for text in texts])
    short = [i for i, ids in enumerate(encoded) if len(ids) < length and len(texts[i]) > cut]
    for i, ids in zip(short, tokenizer.encode_batch([texts[i] for i in short]), strict=True):
        encoded[i] = ids
    return [ids[:length] for ids in encoded]


def _embedding_path(directory: epath.Path, index: int) -> epath.Path:
    return directory / f"part-{index:05d}.npy"


def _embedding_parts(directory: epath.Path, count: int) -> Iterator[epath.Path]:
    return (_embedding_path(directory, index) for index in range(-(-count // FILES_PER_PART)))


def _embed_documents(source: epath.Path, directory: epath.Path, count: int, embed: Embed, label: str) -> None:
    """Writes the missing parts; each is a function of its slice of the documents."""
    if all(path.exists() for path in _embedding_parts(directory, count)):
        return
    rows = documents.read(source, ("text",))
    with Progress(label, count, "files") as bar:
        for path in _embedding_parts(directory, count):
            texts = [row["text"] for row in itertools.islice(rows, FILES_PER_PART)]
            if not path.exists():
                vectors_NxD = embed(texts)
                with atomic_path(path) as temporary, temporary.open("wb") as file:
                    np.save(file, vectors_NxD)
            bar.advance(len(texts))


def _vectors_of(directory: epath.Path, wanted: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(position, vector [D]) of the wanted documents that have one."""
    by_part: dict[int, list[int]] = {}
    for position in sorted(wanted):
        by_part.setdefault(position // FILES_PER_PART, []).append(position)
    for part, positions in by_part.items():
        vectors_NxD = np.load(_embedding_path(directory, part))
        for position in positions:
            vector_D = vectors_NxD[position % FILES_PER_PART]
            if np.isfinite(vector_D).all():
                yield position, vector_D


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
            warnings.simplefilter("ignore")  # a file without a tree that did not see it: handled below
            self._forest.fit(vectors_NxD, high_N)
        # Threads would add the trees' votes in any order, which changes the last bits.
        self._forest.n_jobs = 1
        out_of_bag_N = self._forest.oob_decision_function_[:, 1]
        seen_by_all_N = ~(self._forest.oob_decision_function_.sum(1) > 0)
        self.out_of_bag = np.where(seen_by_all_N, self.score(vectors_NxD), out_of_bag_N)
        """Scores [N] of the files it was trained on, each by the trees that did not see it.

        The plain scores repeat the labels: a graded file would be preferred to one that was not graded."""

    def score(self, vectors_NxD: np.ndarray) -> np.ndarray:
        """Probability of "high" [N] float64; NaN for a vector that is not finite."""
        scores_N = np.full(len(vectors_NxD), np.nan)
        finite_N = np.isfinite(vectors_NxD).all(1)
        if finite_N.any():
            scores_N[finite_N] = self._forest.predict_proba(vectors_NxD[finite_N])[:, 1]
        return scores_N


def split_held_out(labels: Mapping[str, str], share: float) -> set[str]:
    """Ids held out: the share of each label with the lowest hashes, at least one and never all of them.

    Raises UserError where a label has fewer than two files.
    """
    held_out: set[str] = set()
    for label in ("high", "low"):
        ids = sorted(
            (i for i, given in labels.items() if given == label),
            key=lambda i: hashlib.sha256(f"held out {i}".encode()).hexdigest(),
        )
        if len(ids) < 2:
            raise UserError(
                f"grades: {len(ids)} of {len(labels)} files are labelled {label}, to learn from and to test on takes "
                "two; raise config.annotate.max_files or change config.annotate.high_share"
            )
        held_out.update(ids[: min(max(1, round(share * len(ids))), len(ids) - 1)])
    return held_out


def _quality(scores: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """ROC AUC, and recall of each label at a score of 0.5, on files that the forest has not seen."""
    from sklearn.metrics import roc_auc_score

    right = {"high": 0, "low": 0}
    for score, label in zip(scores, labels, strict=True):
        right[label] += (score >= 0.5) == (label == "high")
    of = Counter(labels)
    return {
        "roc_auc": round(float(roc_auc_score([label == "high" for label in labels], scores)), 6),
        "recall": {label: round(right[label] / of[label], 6) for label in right},
        "recall_counts": {label: [int(right[label]), of[label]] for label in right},  # [recognised, held out]
    }


def recall_bands(rows: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """[on their label's side of a score of 0.5, all] of the rows whose grade lies in each of BANDS equal bands.

    rows: label, grade (0 to 1; 1 falls into the last band) and score. Where the best files are few, the recall of
    "high" does not show that the forest misses just these (a replica with labels of GPT-5-nano found none of them).
    """
    bands = [[0, 0] for _ in range(BANDS)]
    for row in rows:
        band = bands[min(int(row["grade"] * BANDS), BANDS - 1)]
        band[0] += int((row["score"] >= 0.5) == (row["label"] == "high"))
        band[1] += 1
    return bands


def _comment_shares(
    source: epath.Path, tested: Mapping[str, dict[str, Any]], grader: Grader | None, embed: Embed, forest: Forest
) -> dict[str, Any]:
    """What held-out files lose when comments and docstrings are cut out of them.

    A filter that loses all its power with them has learnt to see comments (Stack-Edu's did). grader: None where the
    grades come from teachers, who would have to be paid to grade the files again: then only the scores are compared.
    """
    from sklearn.metrics import roc_auc_score

    stripped: list[tuple[dict[str, Any], str]] = []
    for row in documents.read(source):
        if row["id"] in tested:
            with contextlib.suppress(ValueError):
                stripped.append((tested[row["id"]], strip_comments(row["text"])))
    scores_after = forest.score(embed([text for _, text in stripped]))
    pairs = [
        (row, text, float(score))
        for (row, text), score in zip(stripped, scores_after, strict=True)
        if np.isfinite(score)
    ]
    labels = [row["label"] == "high" for row, _, _ in pairs]
    if len(set(labels)) < 2:
        return {"stripped": len(pairs), "comment_means": None, "comment_share": None, "roc_auc_stripped": None}
    after = {"score": [score for _, _, score in pairs]}
    if grader is not None:
        after = {"grade": [grader(text).value for _, text, _ in pairs], **after}
    means = {
        name: [float(np.mean([row[name] for row, _, _ in pairs])), float(np.mean(values))]
        for name, values in after.items()
    }
    return {
        "stripped": len(pairs),
        "comment_means": {k: [round(x, 6) for x in pair] for k, pair in means.items()},  # [with, without comments]
        "comment_share": {k: round(1 - after / before, 6) if before else 0.0 for k, (before, after) in means.items()},
        "roc_auc_stripped": round(float(roc_auc_score(labels, [s for _, _, s in pairs])), 6),
    }


# --- What is kept --------------------------------------------------------------------------------------------------


def _within_budget(
    ranking: Sequence[str], budget: int, tokens_per_file: float, source: epath.Path, tokenizer: Tokenizer
) -> dict[str, int]:
    """Id -> tokens of the best files, best first, up to the first that would exceed the budget.

    Only files near the top are counted: so many at a time as the mean so far says are needed.
    """
    kept: dict[str, int] = {}
    counted: dict[str, int] = {}
    spent = 0
    while len(counted) < len(ranking):
        missing = int(1.2 * (budget - spent) / max(tokens_per_file, 1)) + 16
        wanted = set(ranking[len(counted) : len(counted) + missing])
        counted.update(_count_tokens(source, wanted, tokenizer))
        tokens_per_file = sum(counted.values()) / len(counted)
        for identifier in ranking[len(kept) : len(counted)]:
            if spent + counted[identifier] > budget:
                return kept
            kept[identifier] = counted[identifier]
            spent += counted[identifier]
    return kept


def _count_tokens(source: epath.Path, wanted: set[str], tokenizer: Tokenizer) -> Iterator[tuple[str, int]]:
    rows = (row for row in documents.read(source) if row["id"] in wanted)
    while batch := list(itertools.islice(rows, _ENCODE_BATCH)):
        encoded = tokenizer.encode_batch([row["text"] for row in batch])
        yield from ((row["id"], len(ids)) for row, ids in zip(batch, encoded, strict=True))


def _write_kept(source: epath.Path, directory: epath.Path, scores: Mapping[str, float], kept: Mapping[str, int]) -> int:
    """Writes the kept rows with all their columns and the score, part by part; returns the bytes of their text."""
    directory.mkdir(exist_ok=True)
    written = 0
    left = set(kept)  # a set made elsewhere may hold a document twice
    for index, path in enumerate(documents.parts(source)):
        with path.open("rb") as file:
            schema = pq.read_schema(file)
        names = [name for name in schema.names if name != "score"]
        schema = pa.schema([schema.field(name) for name in names]).append(pa.field("score", pa.float64()))
        rows = []
        for row in documents.read_part(path, names):
            if row["id"] in left:
                left.remove(row["id"])
                rows.append(row)
        documents.write_part(directory, index, [{**row, "score": scores[row["id"]]} for row in rows], schema)
        written += sum(len(row["text"].encode()) for row in rows)
    return written


def _write_scores(
    path: epath.Path,
    scores: Mapping[str, float],
    kept: Mapping[str, int],
    grades: Mapping[str, dict[str, Any]],
    held_out: set[str],
) -> None:
    rows = [
        {
            "id": identifier,
            "score": score if np.isfinite(score) else None,
            "kept": identifier in kept,
            "grade": grades[identifier]["grade"] if identifier in grades else None,
            "held_out": identifier in held_out,
        }
        for identifier, score in scores.items()
    ]
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCORES), file, compression="zstd")


def _examples(
    source: epath.Path, scores: Mapping[str, float], kept: Mapping[str, int], grades: Mapping[str, dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """Kept files near the 0.9 quantile of all scores and dropped ones near the 0.1 quantile: typical, not extreme."""
    finite = {i: score for i, score in scores.items() if np.isfinite(score)}
    chosen: dict[str, list[str]] = {}
    for side, quantile in (("kept", 0.9), ("dropped", 0.1)):
        middle = float(np.quantile(list(finite.values()), quantile))
        ids = [i for i in finite if (i in kept) == (side == "kept")]
        chosen[side] = sorted(ids, key=lambda i: (abs(finite[i] - middle), i))[:EXAMPLES]
    wanted = {i for ids in chosen.values() for i in ids}
    columns = ("id", "text", "source", "path")
    rows = {row["id"]: row for row in documents.read(source, columns) if row["id"] in wanted}
    return {
        side: [
            {
                "id": i,
                "path": rows[i]["path"],
                "source": rows[i]["source"],
                "score": finite[i],
                "grade": grades[i]["grade"] if i in grades else None,
                "lines": from_first_code(rows[i]["text"]).split("\n")[:EXAMPLE_LINES],
            }
            for i in ids
        ]
        for side, ids in chosen.items()
    }
