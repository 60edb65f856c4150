"""How far training text is from people's, counted in tokens from the documents to the weights.

Generation 0 was written by people, 1 by the grammar or by a model that learnt from generation 0 alone, n + 1 by one
that learnt from texts of generation n. Models that are taught by models in turn lose the tails of what people write
(Shumailov et al., Nature 631, 2024); where people's text stays in the mixture they do not (Gerstgrasser et al., arXiv
2404.01413): hence a floor on its share.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from phi_jax.errors import UserError

UNKNOWN = "unknown"
_PEOPLE = "0"

Shares = dict[str, float]  # "0", "1", ... and UNKNOWN, as far as there is any -> share of the tokens; they sum to 1


def counted(tokens: Mapping[int | None, int]) -> dict[str, int]:
    """Tokens by the column `generation` of their documents, None where it is unknown, as facts hold them."""
    names = {UNKNOWN if g is None else str(g): n for g, n in tokens.items()}
    return dict(sorted(names.items(), key=lambda item: (item[0] == UNKNOWN, len(item[0]), item[0])))


def mixed(sources: Iterable[tuple[Mapping[str, Any], float]]) -> Shares:
    """Of the training tokens of several token sets. sources: (facts of the artifact, its share of the records).

    A set whose facts do not say it, having been made elsewhere, is unknown.
    """
    total: Shares = {}
    for facts, share in sources:
        tokens = facts.get("train", {}).get("generations") or {UNKNOWN: 1}
        for generation, count in tokens.items():
            total[generation] = total.get(generation, 0.0) + share * count / sum(tokens.values())
    return {generation: round(share, 6) for generation, share in total.items() if share}


def of_training(facts: Mapping[str, Any]) -> Shares:
    """Of a training artifact's facts. One from before they were counted is unknown."""
    return facts.get("generations") or {UNKNOWN: 1.0}


def check_floor(shares: Shares, floor: float, label: str) -> None:
    """Raises UserError where less than `floor` of the tokens is text that people wrote, or it is no share."""
    if not 0 <= floor <= 1:
        raise UserError(f"config.mixture.min_real={floor}: a share of the tokens; use one from 0 to 1")
    if shares.get(_PEOPLE, 0.0) < floor:
        raise UserError(
            f"config.mixture.min_real={floor}: of the tokens of {label} only {described(shares)}; lower "
            "config.mixture.textbooks, or config.mixture.min_real if it is meant so"
        )


def described(shares: Shares) -> str:
    """ "86.0 % were written by people, 14.0 % are of generation 1"."""
    people = f"{100 * shares.get(_PEOPLE, 0.0):.1f} % were written by people"
    others = (
        f"{100 * share:.1f} % are of " + ("unknown origin" if g == UNKNOWN else f"generation {g}")
        for g, share in shares.items()
        if g != _PEOPLE
    )
    return ", ".join([people, *others])


def of_writings(trainings: Iterable[Shares]) -> int | None:
    """The generation of what a model writes that went through these trainings; None where one of them is unknown."""
    seen = {generation for shares in trainings for generation in shares}
    if not seen or UNKNOWN in seen:
        return None
    return 1 + max(map(int, seen))
