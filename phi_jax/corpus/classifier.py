"""What tells, by a model's embedding of a file, how likely its grade is "high": a random forest or a linear head.

The paper has the forest (section 2.1); the linear head is a logistic regression on the same vectors, to compare with.
Both are scikit-learn's, functions of data and seed. Both labels weigh the same in them, however rare one is: without
that, the rarer one's scores fall. So scores lie above the shares of files that are graded high; see `calibration`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import documents

FOLDS = 5  # of the cross-validation
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # values of the linear head's C, the inverse of its penalty

Score = Callable[[np.ndarray], np.ndarray]  # vectors [N, D] -> probability of "high" [N]
Rows = Sequence[Mapping[str, Any]]  # files with their "label" and "score"


def learn(
    vectors_NxD: np.ndarray, high_N: np.ndarray, rules: Config, seed: int
) -> tuple[Score, np.ndarray, dict[str, float]]:
    """Learns by config.filter's rules which vectors (float32) are of files graded high (bool, at least two of each).

    Returns the scores of the head that config.filter.classifier names; its scores [N] of the files that it learnt from,
    each by a head that did not see the file; and the ROC AUC of such scores of both heads, "forest" and "linear". The
    linear head's features are standardised, and its C is the one with the best cross-validated ROC AUC, which is thus a
    little too good.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(min(FOLDS, int(np.bincount(high_N).min())), shuffle=True, random_state=seed)
    linear = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
    search = GridSearchCV(linear, {"logisticregression__C": STRENGTHS}, scoring="roc_auc", cv=folds)
    # On one thread: several would add the trees' votes in any order, which changes the last bits.
    forest = RandomForestClassifier(
        n_estimators=rules.trees, min_samples_leaf=rules.min_samples_leaf, class_weight="balanced", random_state=seed
    )
    heads = {"forest": forest, "linear": search.fit(vectors_NxD, high_N).best_estimator_}
    unseen = {
        name: cross_val_predict(head, vectors_NxD, high_N, cv=folds, method="predict_proba")[:, 1]
        for name, head in heads.items()
    }
    chosen = heads[rules.classifier].fit(vectors_NxD, high_N)
    rocs = {name: round(roc_auc_score(high_N, scores_N), 6) for name, scores_N in unseen.items()}
    return lambda vectors_NxD: chosen.predict_proba(vectors_NxD)[:, 1], unseen[rules.classifier], rocs


def split_held_out(labels: Mapping[str, str], share: float) -> set[str]:
    """Ids held out: the share of each label with the lowest hashes, at least one, and two are left to learn from.

    Raises UserError where a label has fewer than three files.
    """
    held_out = set()
    for label in ("high", "low"):
        ids = sorted((i for i in labels if labels[i] == label), key=lambda i: (documents.uniform(i, "held out"), i))
        if len(ids) < 3:  # two to learn from, in two folds, and one to test on
            raise UserError(
                f"grades: {len(ids)} of {len(labels)} files are labelled {label}; learning and testing take at least "
                "three; raise config.annotate.max_files or change config.annotate.high_share"
            )
        held_out.update(ids[: min(max(1, round(share * len(ids))), len(ids) - 2)])
    return held_out


def roc_auc(rows: Rows) -> float:
    """Of the scores."""
    from sklearn.metrics import roc_auc_score

    return round(roc_auc_score([row["label"] == "high" for row in rows], [row["score"] for row in rows]), 6)


def calibration(rows: Rows) -> list[list[float]]:
    """The tenths of the files by score, the lowest first: [mean score, share graded high, files]."""
    ranked = sorted((row["score"], row["label"] == "high") for row in rows)
    tenths = np.array_split(np.array(ranked, float), 10)
    return [[*tenth.mean(0).round(6).tolist(), len(tenth)] for tenth in tenths if len(tenth)]
