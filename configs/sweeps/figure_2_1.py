"""figure_2_1: two sizes and two budgets of tokens; in each, the models raw, base and finetuned (paper, Figure 2.1)."""

# Sizes and steps of pretraining. At "paper" a step is 1024 sequences of 2,048 tokens: 12,400 steps are 26B tokens, 36,200
# are 76B (paper: 1.3B was trained on 51B to 76B).
SCALES = {
    "micro": ({"model.num_layers": 1}, 8, 24),
    "nano": ({"model.num_layers": 2, "model.hidden_size": 64, "model.intermediate_size": 256, "model.num_heads": 2}, 250, 700),
    "paper": ({"config": "../phi_1_small.py"}, 12_400, 36_200),
}
PAPER = ("HumanEval, 164 problems: pass@1 in %, 350M and 1.3B (Figure 2.1; * from memory, ** second-hand)", {
    "small,short raw": "11 *", "small,short base": "16 *", "small,short finetuned": "41 *",
    "small,long raw": "12 *", "small,long base": "20", "small,long finetuned": "45",
    "large,long raw": "17 **", "large,long base": "29", "large,long finetuned": "51",
})


def get_points(h):
    small, short, long = SCALES[h.scale]
    budgets = [h.point(name, {"training.steps": steps, "training.schedule_steps": steps}) for name, steps in (("short", short), ("long", long))]
    return h.product(
        h.chain(h.point("small", small), h.point("large", {})),
        h.chain(*budgets),
        h.point("", {"models.raw+exercises": None}),
    )
