"""Coverage-steered prompting against even prompting at equal requests, on a test server that mostly fails at a fifth of
the curriculum's topics. It proves the mechanism; how unevenly a real model fails is not known here.

Its figures go to tests/acceptance/steering.json.
"""

import json
import math
from collections import Counter

import pytest
from llm_server import serving
from running import ROOT
from test_taught import build, charged, config_of, rows_of

from phi_jax.synthesis import curriculum

pytestmark = pytest.mark.acceptance

HARD, LESSONS, STEERED = 0.2, 2400, 0.3


def figures(made, ledger):
    kept = Counter(json.loads(row["lesson"])["topic"] for row in rows_of(made, "exercises"))
    counts = [kept[topic] for _, topic in curriculum.topics()]
    total = sum(counts)
    return {
        "requests": len(ledger),
        "lessons": made.facts["exercises"]["requested"],
        "kept": total,
        "topic_evenness": made.facts["exercises"]["diversity"]["coverage"]["topic_evenness"],
        "texts_of_a_topic": {"least": min(counts), "mean": total / len(counts), "most": max(counts)},
        "standard_deviation": math.sqrt(sum((n - total / len(counts)) ** 2 for n in counts) / len(counts)),
        "topics_below_half_the_mean": sum(n < total / len(counts) / 2 for n in counts),
        "distinct_3": made.facts["exercises"]["diversity"]["distinct_3"],
    }


def ask(tmp_path, lessons, share):
    with serving(hard=HARD) as server:
        rules = {"textbook_requests": 100, "exercise_requests": lessons * 100, "steered": share}
        made = build(config_of(server.base_url, **rules), tmp_path / f"{lessons}-{share}")
        return figures(made, charged(server.ledger()))


@pytest.mark.timeout(3000)
def test_steering_evens_the_coverage_at_equal_requests(tmp_path):
    found = {"steered": ask(tmp_path, LESSONS, STEERED), "even": ask(tmp_path, LESSONS, 0.0)}
    # Lessons on what is hard are asked for a second time more often: so many more even ones make as many requests.
    more = round(LESSONS * found["steered"]["requests"] / found["even"]["requests"])
    found["even, as many requests"] = even = ask(tmp_path, more, 0.0)
    about = {"hard_topics": HARD, "share_steered": STEERED}
    (ROOT / "tests/acceptance/steering.json").write_text(json.dumps({**about, **found}, indent=1) + "\n")
    steered = found["steered"]
    assert abs(even["requests"] - steered["requests"]) < 0.01 * steered["requests"]
    assert steered["topic_evenness"] > even["topic_evenness"]
    assert steered["topics_below_half_the_mean"] < even["topics_below_half_the_mean"] / 2
    assert steered["standard_deviation"] < 0.75 * even["standard_deviation"]
