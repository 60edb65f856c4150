"""Starting launch/device_check on a CPU, with small shapes, and ending it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from running import ROOT

FOLDER = ROOT / "launch" / "device_check"
NEEDED = ("jax", "jaxlib", "flax", "optax", "absl-py", "numpy")


class Check:
    """One `launch/device_check/run --tiny`. Its parts' command lines hold `scratch`, their temporary directory."""

    def __init__(self, scratch, *arguments, env=None, out="out.json"):
        self.out, self.scratch = scratch / out, scratch / "tmp"
        self.scratch.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHON": sys.executable, "TMPDIR": str(self.scratch), **(env or {})}
        command = [FOLDER / "run", "--out", self.out, "--tiny", *arguments]
        self.process = subprocess.Popen(
            list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        self.said = ""

    def until(self, line):
        """Reads what it says up to a line that the pattern fits; None where it ends before."""
        for said in self.process.stderr:
            self.said += said
            if found := re.fullmatch(line, said.rstrip("\n")):
                return found
        return None

    def end(self):
        """(exit code, parts) of a check that runs to its end."""
        self.until("(?!)")
        return self.process.wait(), json.loads(self.out.read_text()).get("tiny")

    def children(self):
        """Processes of its parts."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"check:run" in words and str(self.scratch).encode() in b" ".join(words):
                found.append(int(entry.name))
        return found

    def child(self):
        """The process of the part that runs, as soon as it is there."""
        while not (found := self.children()):
            time.sleep(0.01)
        return found[0]

    def kill(self):
        """SIGKILL; returns once no part is left, which must be at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        deadline = time.monotonic() + 10
        while self.children():
            assert time.monotonic() < deadline, "a part outlives the check"
            time.sleep(0.01)


def blocked(folder):
    """PYTHONPATH of an environment in which only NEEDED and what they need can be imported, beside phi_jax."""
    allowed, new = set(), {canonicalize_name(name) for name in NEEDED}
    while new:
        allowed |= new
        found = set()
        for name in new:
            try:
                texts = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                continue
            needs = [Requirement(text) for text in texts]
            found |= {canonicalize_name(r.name) for r in needs if not r.marker or r.marker.evaluate({"extra": ""})}
        new = found - allowed
    others = [
        top
        for top, distributions in metadata.packages_distributions().items()
        if top != "phi_jax" and not allowed & {canonicalize_name(d) for d in distributions}
    ]
    assert {"torch", "ml_collections", "grain", "daft", "pyarrow", "openai", "tokenizers"} <= {*others, "torch"}
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {set(others)!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}: blocked', name=name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
    )
    return str(folder)
