"""Requests a second of our client, its journal on disk, beside Bespoke Curator on the same server.

    python tests/benchmarks/teacher_curator.py --base-url http://127.0.0.1:8000/v1 --peer-python V/bin/python

V: an environment with `pip install bespokelabs-curator`, which need not have phi_jax. Without --peer-python ours runs
alone. What other processes took of the CPU disturbs no round here, since the server is one of them.
"""

import importlib.metadata
import os
import resource
import sys
import tempfile
import time

MAX_TOKENS = 64
PROMPT = "Request {number}: write one line of Python that adds {number} to its argument, and say what it does."
UNLIMITED = 10**9  # a minute: the peer is not to be slowed down by limits that the server does not have


def ours(base_url, model, window, count, directory):
    """Asking `count` requests, with a fresh journal."""
    from phi_jax.config import Config
    from phi_jax.teacher.request import Request
    from phi_jax.teacher.teachers import Teachers

    endpoint = {
        "model": model, "base_url": base_url, "key_variable": "", "price_as": "local", "mode": "live",
        "json_mode": "text", "window": window, "batch_requests": 1, "timeout": 60.0, "attempts": 5,
    }  # fmt: skip
    config = Config({"teachers": {"bench": endpoint}, "budget": {"max_dollars": 0.0, "prices": "", "journal": ""}})

    def requests():
        for number in range(count):
            messages = (("user", PROMPT.format(number=number)),)
            yield Request(model, messages, MAX_TOKENS, temperature=1.0, label=f"bench/{number}")

    with tempfile.TemporaryDirectory(dir=directory) as scratch, Teachers(config, scratch) as teachers:
        teachers.shares("bench")
        wall, cpu = time.perf_counter(), time.process_time()
        tally = teachers.ask(requests, "bench", count)
        return _figures(tally.counts["answered"], wall, cpu)


def peer(base_url, model, window, count, directory):
    """From the first request until all replies can be read, without imports and set-up, as on our side."""
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        # Before it is imported: no telemetry, no network but the server, files in the scratch directory.
        os.environ.update(
            TELEMETRY_ENABLED="false", LITELLM_LOCAL_MODEL_COST_MAP="True", CURATOR_DISABLE_RICH_DISPLAY="1",
            CURATOR_CACHE_DIR=f"{scratch}/curator", HF_HOME=f"{scratch}/huggingface", HF_HUB_OFFLINE="1",
            HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", OPENAI_API_KEY="none",
        )  # fmt: skip
        os.environ.pop("CURATOR_VIEWER", None)
        from bespokelabs import curator

        _count_tokens_offline()

        class Asking(curator.LLM):
            """Each row's prompt as it stands."""

            return_completions_object = False

            def prompt(self, row):
                return row["prompt"]

            def parse(self, row, response):
                return {"prompt": row["prompt"], "reply": response}

        asking = Asking(
            model_name=model,
            backend="openai",
            backend_params={
                "base_url": base_url, "api_key": "none", "max_requests_per_minute": UNLIMITED,
                "max_tokens_per_minute": UNLIMITED, "max_concurrent_requests": window,
            },
            generation_params={"max_tokens": MAX_TOKENS},
        )  # fmt: skip
        rows = [{"prompt": PROMPT.format(number=number)} for number in range(count)]
        wall, cpu = time.perf_counter(), time.process_time()
        answer = asking(rows, working_dir=f"{scratch}/curator")
        replies = sum(map(bool, getattr(answer, "dataset", answer)["reply"]))
        return {**_figures(replies, wall, cpu), "version": importlib.metadata.version("bespokelabs-curator")}


def _count_tokens_offline():
    """Curator downloads tiktoken's cl100k_base to count tokens for its limits; single bytes do as well, and faster."""
    import tiktoken
    from bespokelabs.curator.request_processor.online import openai_online_request_processor as online

    ranks = {bytes([value]): value for value in range(256)}
    single = tiktoken.Encoding("bytes", pat_str=r"[\s\S]", mergeable_ranks=ranks, special_tokens={})
    online.OpenAIOnlineRequestProcessor.get_token_encoding = lambda self: single


def _figures(replies, wall, cpu):
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "replies": replies,
        "seconds": wall,
        "cpu_seconds": cpu,
        "requests_per_second": replies / wall,
        "peak_mib": _peak_mib(),
    }


def _peak_mib():
    """Of this process since it started. ru_maxrss would also have what the parent was when it started this one."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def measure(options):
    """memory: the peak of two runs of ours, of N and of 10 N requests."""
    from compare import Side, compare, interpreter_of

    from phi_jax.errors import UserError

    request = {
        "base_url": options.base_url, "model": options.model, "window": options.window, "count": options.requests,
        "directory": options.directory,
    }  # fmt: skip

    def check(figures):
        for name, found in figures.items():
            if found["replies"] != options.requests:
                raise UserError(
                    f"{name}: {found['replies']} of {options.requests} requests were answered, so no speed; is "
                    f"{options.base_url} a server for model {options.model}?"
                )

    sides = {"ours": Side("teacher_curator:ours", request)}
    if interpreter_of(options.peer_python):
        sides["peer"] = Side("teacher_curator:peer", request, options.peer_python)
    result = compare(sides, options.rounds, speed="requests_per_second", check=check)
    longer = Side("teacher_curator:ours", {**request, "count": 10 * options.requests}).run()
    peaks = [result["rounds"][0]["ours"]["peak_mib"], longer["peak_mib"]]
    return {
        "case": {"window": options.window, "requests": options.requests, "max_tokens": MAX_TOKENS},
        "peer": "Bespoke Curator, online, backend openai",
        "memory": {"peak_mib": peaks, "grown_by": peaks[1] / peaks[0] - 1},
        **result,
    }


def add_arguments(add):
    add("--base-url", required=True, metavar="URL", help="of a server that costs nothing, e.g. http://HOST:PORT/v1")
    add("--model", default="teacher", metavar="NAME", help="as the server calls it (default teacher)")
    add("--requests", type=int, default=10_000, metavar="N", help="of one run; memory also at 10 N (default 10000)")
    add("--window", type=int, default=100, metavar="N", help="requests in flight at most (default 100)")
    add("--directory", default=".", metavar="DIR", help="on whose disk the journal lies (default here)")
    add("--peer-python", metavar="PY", help="interpreter of an environment that has Curator")


if __name__ == "__main__":
    from compare import main

    main(add_arguments, measure)
