"""The rehearsal of launch/device_check on a CPU with small shapes: every part is killed once; two processes.

    pytest tests/acceptance/test_device_check_kills.py

Its result goes to tests/acceptance/device_check.json. On a machine with a GPU or a TPU the check itself is to be run.
"""

import json
import random
import socket
import time
from pathlib import Path

import pytest
from device_checks import FOLDER, Check

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(7200)]

RESULT = Path(__file__).with_name("device_check.json")
LIMIT = ("--limit", "600")  # the machine may be busy, and its compiler slow


def test_a_kill_in_every_part_is_survived(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    from parts import PARTS

    chance, killed = random.Random(0), []
    while True:
        check = Check(tmp_path, *LIMIT)
        while (begun := check.until("(.*): begins")) and begun[1] in killed:
            pass
        if not begun:
            break
        time.sleep(chance.uniform(0, 4))  # while it starts, compiles or measures
        check.kill()
        killed.append(begun[1])
    code, found = check.end()
    assert killed == list(PARTS) == list(found)
    assert code == 0
    assert {name: part["result"] for name, part in found.items()} == dict.fromkeys(PARTS, "done")
    RESULT.write_text((tmp_path / "out.json").read_text())

    figures = {name: part["figures"] for name, part in found.items()}
    assert figures["correctness"]["kernel"] == "splash"
    assert figures["correctness"]["interpreted"] is True
    assert set(figures["correctness"]) >= {"attention", "step"}
    for compiled in ("eager", "compiled"):
        peer = figures["torch"][compiled]
        assert peer["parameters"] == figures["step"]["parameters"]
        assert peer["ratio"] == pytest.approx(figures["step"]["tokens_per_second"] / peer["tokens_per_second"])
    for slots in (1, 32, 256):
        assert figures[f"sampler.{slots}"]["slots"] == slots
        assert figures[f"sampler.{slots}"]["share_of_bound"] > 0
    assert figures["export"]["relative_largest"] <= figures["export"]["bound"]
    assert str(tmp_path) not in json.dumps(found)


def test_two_processes_check_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    parts = ("--parts", "correctness", "step", "--distributed", "env", *LIMIT)
    both = [
        Check(
            tmp_path, *parts, out=f"out{n}.json",
            env={"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(n)},
        )
        for n in range(2)
    ]  # fmt: skip
    code, found = both[0].end()
    assert (code, both[1].process.wait()) == (0, 0)
    assert not both[1].out.exists()
    for name in ("correctness", "step"):
        assert found[name]["result"] == "done"
        assert found[name]["device"]["processes"] == found[name]["device"]["devices"] == 2
    assert found["step"]["figures"]["tokens_per_step"] == 2 * 8 * 128
