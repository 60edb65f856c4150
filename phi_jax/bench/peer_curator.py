"""The peer: Bespoke Curator asks the same requests. A script for the interpreter of an environment that has Curator.

    PY phi_jax/bench/peer_curator.py REQUEST.json ANSWER.json

REQUEST: {"base_url", "model", "window", "requests", "prompt", "max_tokens", "directory"}. ANSWER: the figures that
bench.teacher has of ours, and the versions. It imports nothing of phi_jax, which that environment does not have.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

UNLIMITED = 10**9  # a minute: the peer is not to be slowed down by limits that the server does not have


def settle(directory: str) -> None:
    """The peer's environment, before it is imported: no telemetry, no network but the server, files in `directory`."""
    os.environ.update(
        TELEMETRY_ENABLED="false",
        LITELLM_LOCAL_MODEL_COST_MAP="True",
        CURATOR_DISABLE_RICH_DISPLAY="1",
        CURATOR_CACHE_DIR=os.path.join(directory, "curator"),
        HF_HOME=os.path.join(directory, "huggingface"),
        HF_HUB_OFFLINE="1",
        HF_DATASETS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        OPENAI_API_KEY="none",
    )
    os.environ.pop("CURATOR_VIEWER", None)


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """From the first request until all replies can be read, without imports and set-up, as on our side."""
    settle(request["directory"])
    from bespokelabs import curator

    _count_tokens_offline()
    parameters = {
        "base_url": request["base_url"],
        "api_key": "none",
        "max_requests_per_minute": UNLIMITED,
        "max_tokens_per_minute": UNLIMITED,
        "max_concurrent_requests": request["window"],
    }

    class Asking(curator.LLM):
        """Each row's prompt as it stands."""

        return_completions_object = False

        def prompt(self, row: dict[str, Any]) -> str:
            return row["prompt"]

        def parse(self, row: dict[str, Any], response: str) -> dict[str, Any]:
            return {"prompt": row["prompt"], "reply": response}

    asking = Asking(
        model_name=request["model"],
        backend="openai",
        backend_params=parameters,
        generation_params={"max_tokens": request["max_tokens"]},
    )
    rows = [{"prompt": request["prompt"].format(number=number)} for number in range(request["requests"])]
    wall, cpu = time.perf_counter(), time.process_time()
    answer = asking(rows, working_dir=os.path.join(request["directory"], "curator"))
    replies = getattr(answer, "dataset", answer)["reply"]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {
        "replies": sum(bool(reply) for reply in replies),
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_mib": _peak_mib(),
        "versions": {
            "python": sys.version.split()[0],
            **{name: importlib.metadata.version(name) for name in ("bespokelabs-curator", "aiohttp", "litellm")},
        },
    }


def _count_tokens_offline() -> None:
    """Curator downloads tiktoken's cl100k_base to count tokens for its limits; single bytes do as well, and faster."""
    import tiktoken
    from bespokelabs.curator.request_processor.online.openai_online_request_processor import (
        OpenAIOnlineRequestProcessor,
    )

    single = tiktoken.Encoding(
        "bytes", pat_str=r"[\s\S]", mergeable_ranks={bytes([value]): value for value in range(256)}, special_tokens={}
    )
    OpenAIOnlineRequestProcessor.get_token_encoding = lambda self: single


def _peak_mib() -> float:
    """As bench.teacher measures ours."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(measure(json.loads(Path(sys.argv[1]).read_text()))))
