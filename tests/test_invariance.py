"""Mesh, remat, unrolling, accumulation, chunked loss: ways to compute the same thing, on eight pretended devices."""

import datetime
import json

import numpy as np
import pytest
from invariance import FACTORS, every_way, pairwise
from running import ROOT, devices, python

LOSS_TOLERANCE = 2e-5  # nats, over 10 steps
# Of the largest gradient, at the first step. Muon's Newton-Schulz raises what is small in a gradient up to 3.44^5 = 485
# fold, its rounding too: 1.06e-5 was seen, where SGD's is 2.6e-7.
GRADIENT_TOLERANCE = {"sgd": 2e-6, "muon": 2e-5}


def run(ways):
    done = python("tests/invariance.py", json.dumps(ways), env=devices(8))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def worst(found):
    losses = [np.abs(np.subtract(f["losses"], f["control"])).max() for f in found]
    return float(max(losses)), max(f["gradient_error"] for f in found)


def check(ways):
    found = run(ways)
    assert len(found) == len(ways)
    for f in found:
        way = {k: f[k] for k in FACTORS}
        np.testing.assert_allclose(f["losses"], f["control"], rtol=0, atol=LOSS_TOLERANCE, err_msg=str(way))
        assert f["gradient_error"] <= GRADIENT_TOLERANCE[f["optimizer"]], way
        assert f["losses"][-1] < f["losses"][0]
    return found


@pytest.mark.timeout(1800)
def test_every_pair_of_ways_gives_the_losses_and_gradients_of_one_device():
    check(pairwise())


@pytest.mark.acceptance
@pytest.mark.timeout(7200)
def test_every_way_gives_the_losses_and_gradients_of_one_device():
    import jax

    found = check(every_way())
    loss, gradient = worst(found)
    (ROOT / "tests" / "acceptance" / "invariance.json").write_text(
        json.dumps(
            {
                "date": datetime.date.today().isoformat(),
                "jax": jax.__version__,
                "factors": FACTORS,
                "ways": len(found),
                "largest_loss_difference": loss,
                "largest_gradient_difference": gradient,
                "tolerances": {"loss": LOSS_TOLERANCE, "gradient": GRADIENT_TOLERANCE},
            },
            indent=1,
        )
        + "\n"
    )
