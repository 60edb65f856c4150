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
    from check import PARTS

    chance, killed = random.Random(0), []
    while True:
        check = Check(tmp_path, *LIMIT)
        while (begun := check.until("(.*): begun")) and begun[1] in killed:
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
    for documents in ("whole", "documents"):
        assert sum(name.startswith(f"xla, {documents}") for name in figures["attention"]) == 4 + 1
    assert figures["torch_step"]["parameters"] == figures["step.phi_1.none.4"]["parameters"]
    for slots in (1, 32, 256):
        assert figures[f"sampler_speed.{slots}"]["slots"] == slots
    assert str(tmp_path) not in json.dumps(found)


def test_gradients_that_take_no_notice_of_documents_are_found(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import parts

    exact, figures = parts.batch_loss, {}

    def blind(*inputs, document_end, cut):
        return exact(*inputs, document_end=document_end if inputs[2].compute_dtype == "float32" else None, cut=cut)

    monkeypatch.setattr(parts, "batch_loss", blind)
    parts.gradients(figures, True)
    assert len(figures["wrong"]) > 15  # of 20 arrays; the head's bias hardly knows of documents


def test_two_processes_check_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    parts = ("attention", "gradients", "step.phi_1.none.4")
    both = [
        Check(
            tmp_path, *LIMIT, "--distributed", "env", "--parts", *parts, out=f"out{n}.json",
            env={"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(n)},
        )
        for n in range(2)
    ]  # fmt: skip
    for check in both:
        code, found = check.end()
        assert (code, list(found)) == (0, list(parts))
        assert {part["devices"] for part in found.values()} == {"2 x cpu"}
        assert found["step.phi_1.none.4"]["figures"]["tokens_per_step"] == 2 * 4 * 128
