"""table_3: exercises like the benchmark's problems go, from some AST match rate on, and the model is trained again (paper, Table 3)."""

TABLE_3 = (0.0, 0.95, 0.9, 0.85, 0.8)  # 0: none goes
PAPER = ("HumanEval, 164 problems: pass@1 in %, 1.3B, finetuned (Table 3)", {
    f"match_rate={rate:g} finetuned": score for rate, score in zip(TABLE_3, (50.6, 50.6, 45.1, 46.3, 45.1), strict=True)
})


def get_points(h):
    # Below paper the problems are those that the grammar holds out; at paper HumanEval, of which the paper also tells
    # similar problems from others: the facts of stage `prune` name them.
    problems, rates = ("HumanEval.jsonl.gz", TABLE_3) if h.scale == "paper" else ("nano", (0.0, 0.95, 0.8))
    return h.product(
        h.point("", {"prune.problems": problems, "models.raw+exercises": None}),
        h.sweep("prune.match_rate", rates),
    )
