"""filter_effect: trained on raw code, on filtered code, on filtered code and textbooks (paper, section 2.1, in text)."""

PAPER = ("HumanEval, 164 problems: pass@1 in %, 350M (section 2.1)", {"raw": 12.19, "filtered": 17.68, "base": 20.12})


def get_points(h):
    return h.point("filter_effect", {
        "models.filtered": {"mixture": (("filtered", 1.0),), "start": "", "rules": "training", "select": "latest"},
        "models.finetuned": None,
        "models.raw+exercises": None,
    })
