"""The paper's own numbers that a page shows beside ours."""

from __future__ import annotations

from typing import Any

# Figure 2.1 of "Textbooks Are All You Need": HumanEval pass@1 in %, of models trained on The Stack+, on CodeTextbook,
# and on CodeTextbook then CodeExercises, as [value, whether it is uncertain]. 20, 29, 45 and 51 are given in the text
# too; 17 is second-hand; the other bars of the 350M models are from memory. "models": which of ours they stand beside.
FIGURE_2_1: dict[str, Any] = {
    "benchmark": "HumanEval",
    "models": {"raw": "The Stack+", "base": "CodeTextbook", "finetuned": "CodeTextbook, then CodeExercises"},
    "groups": {
        "350M, 26B tokens": {"raw": [11, True], "base": [16, True], "finetuned": [41, True]},
        "350M, 76B tokens": {"raw": [12, True], "base": [20, False], "finetuned": [45, False]},
        "1.3B, 51B to 76B tokens": {"raw": [17, True], "base": [29, False], "finetuned": [51, False]},
    },
}
