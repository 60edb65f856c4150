"""The paper's own numbers that a page shows beside ours."""

from __future__ import annotations

from typing import Any

# Figure 2.1 of "Textbooks Are All You Need": HumanEval pass@1 in %, of models trained on The Stack+, on CodeTextbook,
# and on CodeTextbook then CodeExercises. 20, 29, 45 and 51 are given in the text too; 17 is second-hand; the other
# bars of the 350M models are from memory.
FIGURE_2_1: dict[str, Any] = {
    "benchmark": "HumanEval",
    "bars": ["The Stack+", "CodeTextbook", "then CodeExercises"],
    "groups": [
        {"name": "350M, 26B tokens", "values": [11, 16, 41], "uncertain": [True, True, True]},
        {"name": "350M, 76B tokens", "values": [12, 20, 45], "uncertain": [True, False, False]},
        {"name": "1.3B, 51B to 76B tokens", "values": [17, 29, 51], "uncertain": [True, False, False]},
    ],
}
