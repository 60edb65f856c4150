"""`phi-jax bench teacher`: requests a second of our client, its journal on disk, beside a peer on the same server."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from phi_jax.bench.result import check_out, publish
from phi_jax.bench.rounds import ratio_of
from phi_jax.bench.surroundings import surroundings
from phi_jax.bench.timing import cpu_seconds, cpu_shares
from phi_jax.errors import UserError

EXAMPLE = "phi-jax bench teacher --base-url http://127.0.0.1:8000/v1 --requests 10000"
PEERS = ("curator",)
MAX_TOKENS = 64
PROMPT = "Request {number}: write one line of Python that adds {number} to its argument, and say what it does."
_TIMES_LONGER = 10  # the second run for the memory, whose peak must be that of the first
_VERSIONS = ("openai", "aiohttp", "pydantic")
_TIMEOUT, _ATTEMPTS = 60.0, 5  # seconds of an attempt; attempts of a request


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `run`."""
    add = parser.add_argument
    add("--base-url", required=True, metavar="URL", help="of a server that costs nothing, e.g. http://HOST:PORT/v1")
    add("--model", default="teacher", metavar="NAME", help="as the server calls it (default teacher)")
    add("--requests", type=int, default=10_000, metavar="N", help="of one run; memory also at 10 N (default 10000)")
    add("--window", type=int, default=100, metavar="N", help="requests in flight at most (default 100)")
    add("--peer", choices=PEERS, help="measured beside ours, in turns")
    add("--peer-python", metavar="PY", help="interpreter of an environment that has the peer")
    add("--rounds", type=int, default=3, metavar="N", help="turns of each, where there is a peer (default 3)")
    add("--directory", type=Path, default=Path(), metavar="DIR", help="on whose disk the journal lies (default here)")
    add("--out", type=Path, metavar="FILE.json", help="where the result goes")


def run(options: argparse.Namespace, _: Sequence[str] = ()) -> None:
    """Measures, prints the result as JSON and writes it to options.out.

    Raises UserError for options without sense, and where the server or the peer does not answer every request.
    """
    for name in ("requests", "window", "rounds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)}: must be at least 1")
    if (options.peer is None) != (options.peer_python is None):
        raise UserError(
            "--peer and --peer-python go together: the name, and the interpreter of an environment that has it "
            "(python -m venv V; V/bin/pip install bespokelabs-curator; --peer-python V/bin/python)"
        )
    if options.peer_python and shutil.which(options.peer_python) is None:
        raise UserError(f"--peer-python {options.peer_python}: no such program; name an interpreter, as V/bin/python")
    if not options.directory.is_dir():
        raise UserError(f"--directory {options.directory}: no such directory; make it first")
    check_out(options.out)
    result = measure(options)
    publish(result, options.out)
    print(_in_short(result), file=sys.stderr)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """{"surroundings", "case", "memory", "ours"}, with a peer also {"peer", "ratio", "rounds"}.

    Each run is a process of its own with a fresh journal. memory: the peak of two runs of ours, of N and of 10 N
    requests. ratio: ours / peer's requests in a second; what other
    processes took of the CPU disturbs no round, since the server is one of them.
    """
    case = {
        "base_url": options.base_url,
        "model": options.model,
        "window": options.window,
        "requests": options.requests,
        "max_tokens": MAX_TOKENS,
        "prompt": PROMPT,
    }
    once = _ours(case, options.directory)
    longer = _ours({**case, "requests": options.requests * _TIMES_LONGER}, options.directory)
    result: dict[str, Any] = {
        "surroundings": surroundings(_VERSIONS),
        "case": {
            **{name: case[name] for name in ("window", "requests", "max_tokens")},
            "filesystem": _filesystem(options.directory),
            "server": "on this machine" if _is_local(options.base_url) else "elsewhere",
        },
        "memory": {
            "requests": [case["requests"], case["requests"] * _TIMES_LONGER],
            "peak_mib": [once["peak_mib"], longer["peak_mib"]],
            "grown_by": longer["peak_mib"] / once["peak_mib"] - 1,
        },
        "ours": [once, longer],
    }
    if options.peer is None:
        return result
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "ours": lambda: _ours(case, options.directory),
        "peer": lambda: _peer(case, options.directory, options.peer_python),
    }
    pairs = []
    for number in range(options.rounds):
        order = list(sides) if number % 2 == 0 else list(sides)[::-1]
        figures = {side: sides[side]() for side in order}
        pairs.append({side: figures[side] for side in sides})
    peer = f"Bespoke Curator {pairs[0]['peer']['versions']['bespokelabs-curator']}, online, backend openai"
    return {**result, "peer": peer, "ratio": ratio_of(pairs, "requests_per_second"), "rounds": pairs}


def _ours(case: dict[str, Any], directory: Path) -> dict[str, Any]:
    return _child([sys.executable, "-m", "phi_jax.bench.teacher"], "ours", case, directory)


def _peer(case: dict[str, Any], directory: Path, python: str) -> dict[str, Any]:
    # -P: beside the script lie modules that are called as the standard library's.
    return _child([python, "-P", str(Path(__file__).with_name("peer_curator.py"))], "the peer", case, directory)


def _child(command: list[str], name: str, case: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The figures of one run, in a process of its own and a directory that is removed behind it."""
    with tempfile.TemporaryDirectory(dir=directory, prefix=".bench-") as scratch:
        request, answer = Path(scratch, "request.json"), Path(scratch, "answer.json")
        request.write_text(json.dumps({**case, "directory": str(Path(scratch).resolve())}))
        before = cpu_seconds()
        done = subprocess.run(
            [*command, str(request), str(answer)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace",
        )  # fmt: skip
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["no word"]
            raise UserError(f"bench teacher: {name}: {said[-1]} (exit code {done.returncode})")
        figures = json.loads(answer.read_text())
        stolen = cpu_shares(before, cpu_seconds())["cpu_stolen_share"]
    if figures["replies"] != case["requests"]:
        raise UserError(
            f"bench teacher: {name}: {figures['replies']} of {case['requests']} requests were answered, so no speed; "
            f"is {case['base_url']} a server for model {case['model']}?"
        )
    speed = figures["replies"] / figures["seconds"]
    print(f"{name}: {figures['replies']} requests, {speed:.0f}/s, {figures['peak_mib']:.0f} MiB", file=sys.stderr)
    return {**figures, "requests_per_second": speed, "cpu_stolen_share": stolen}


# --- In a process of its own --------------------------------------------------------------------------------------


def ask_all(request: dict[str, Any]) -> dict[str, Any]:
    """{"replies", "seconds", "cpu_seconds", "peak_mib"} of asking case["requests"] requests with a fresh journal."""
    from phi_jax.teacher.asking import ask
    from phi_jax.teacher.journal import Journal
    from phi_jax.teacher.prices import load_prices
    from phi_jax.teacher.request import Endpoint, Request, Status

    count = request["requests"]
    endpoint = Endpoint(
        name="bench", model=request["model"], base_url=request["base_url"], key_variable="", price_as="local",
        mode="live", window=request["window"], batch_requests=1, timeout=_TIMEOUT, attempts=_ATTEMPTS,
    )  # fmt: skip

    def requests() -> Iterator[Request]:
        for number in range(count):
            messages = (("user", request["prompt"].format(number=number)),)
            yield Request(request["model"], messages, request["max_tokens"], temperature=1.0, label=f"bench/{number}")

    with Journal(request["directory"]) as journal:
        wall, cpu = time.perf_counter(), time.process_time()
        tally = ask({endpoint: requests()}, journal, load_prices(), cap=0, label="bench", total=count)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "replies": tally.counts[Status.ANSWERED],
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    """Of this process since it started. ru_maxrss would also have what the parent was when it started this one."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


# --- What the result says -----------------------------------------------------------------------------------------


def _filesystem(directory: Path) -> str | None:
    """The type of what `directory` lies on, e.g. "ext4"; a journal on "tmpfs" would cost nothing. Linux only."""
    try:
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    except OSError:
        return None
    place = directory.resolve()
    inside = [(Path(point), kind) for point, kind in mounts if place.is_relative_to(point)]
    return max(inside, key=lambda mount: len(mount[0].parts))[1] if inside else None


def _is_local(base_url: str) -> bool:
    return urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")


def _in_short(result: dict[str, Any]) -> str:
    (few, many), (peak, later) = result["memory"]["requests"], result["memory"]["peak_mib"]
    line = (
        f"ours: {result['ours'][1]['requests_per_second']:.0f} requests/s over {many} requests; peak memory "
        f"{peak:.0f} MiB at {few}, {later:.0f} MiB at {many}"
    )
    if "ratio" not in result:
        return line
    ratio = result["ratio"]
    return (
        f"{line}; ours / {result['peer']}: {ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f} over "
        f"{len(ratio['rounds'])} rounds)"
    )


if __name__ == "__main__":
    try:
        Path(sys.argv[2]).write_text(json.dumps(ask_all(json.loads(Path(sys.argv[1]).read_text()))))
    except UserError as failed:
        sys.exit(str(failed))
