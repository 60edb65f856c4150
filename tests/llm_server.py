"""A real HTTP server that speaks the OpenAI protocol, with faults on demand and a ledger of what it charged.

    python tests/llm_server.py --port 0 --ledger FILE [--faults 0.3 --seed S] ...    (--help lists the options)

prints "listening on http://127.0.0.1:PORT/v1". `serving(...)` runs it in a process of its own. Its ledger is a file of
JSON lines, each written through at once: {"event": "asked", "id", "via", "about", "prompt", "completion", ...} when a
request was charged (tokens 0: it was not), and {"event": "sent", "id"} once its reply went out whole.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from aiohttp import web
from llm_batches import Batches
from llm_content import answer, pieces, schema_in
from llm_faults import (
    FAULTS,
    REFUSALS,
    UPKEEP,
    Limits,
    break_connection,
    choose,
    error,
    reply_of,
    turned_away,
    wrapped,
)

MESSAGE_TOKENS = 4  # of the template, for each message
RUNGS = ("none", "json_object", "json_schema")


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--port", type=int, default=0)
    add("--ledger", type=Path, help="where the charges go")
    add("--seed", type=int, default=0, help="of the faults")
    add("--faults", type=float, default=0.0, help="share of the attempts that go wrong")
    add("--kinds", type=lambda text: text.split(","), default=list(FAULTS), help="of the faults, by comma")
    add("--retry-form", default="", help="of a 429: seconds, date, garbage, none (default: by turns)")
    add("--retry-seconds", type=float, default=0.05, help="what a 429 asks to wait")
    add("--hang-seconds", type=float, default=600.0, help="until a hanging reply is given up")
    add("--drip-seconds", type=float, default=0.5, help="that a slow reply takes")
    add("--latency", type=float, default=0.0, help="mean seconds of a reply")
    add("--shape", choices=("openai", "vllm", "llama_cpp"), default="openai", help="of the replies")
    add("--structured", choices=RUNGS, default="json_schema", help="the highest response_format that is honoured")
    add("--unsupported", choices=("refuse", "ignore"), default="refuse", help="what becomes of a higher one")
    add("--limit-name", choices=("", "max_tokens", "max_completion_tokens"), default="", help="the only one it knows")
    add("--fixed-temperature", action="store_true", help="refuses any temperature but 1, and any mention of it")
    add("--finish", default="", help="the finish_reason of each reply")
    add("--forbid", default="", help="a word; prompts that hold it are answered with 403")
    add("--context", type=int, default=1_000_000, help="prompt and completion tokens at most; beyond: 400")
    add("--reasoning", type=int, default=0, help="reasoning tokens of a reply")
    add("--requests-per-second", type=float, default=0.0, help="0 = no limit")
    add("--tokens-per-second", type=float, default=0.0, help="prompt tokens and max_tokens; 0 = no limit")
    add("--limit-headers", default="seconds", help="one of --retry-form's")
    add("--refuse", choices=("", *REFUSALS), default="", help="turns every request away for this reason")
    add("--key", default="", help="the only API key it lets in")
    add("--batch-seconds", type=float, default=0.1, help="of each phase of a batch")
    add("--batch-expire", type=float, default=0.0, help="share of the batches that expire half done")
    add("--batch-fail", type=float, default=0.0, help="share of the batches that fail in validation")
    add("--batch-errors", type=float, default=0.0, help="share of a batch's lines that end in its error file")
    add("--batch-duplicates", type=float, default=0.0, help="share of the output lines that come twice")
    add("--victim", type=Path, help="file {pid, phase, count}: killed at the count-th time the phase comes")
    add("--hard", type=float, default=0.0, help="share of the curriculum's topics that replies mostly fail at")
    add("--instant", action="store_true", help="one fixed reply, no ledger, as little work as possible")
    return parser


class Ledger:
    def __init__(self, path, victim=None):
        self.victim, self.passed = victim, 0
        self.file = open(path, "a", encoding="utf-8") if path else None  # noqa: SIM115
        self.number = 0

    def asked(self, **entry):
        self.number += 1
        self._write({"event": "asked", "id": self.number, **entry})
        return self.number

    def sent(self, number):
        self._write({"event": "sent", "id": number})

    def reached(self, phase):
        """Kills the client that asked for it at this phase: what the server sees of it is exactly this far then."""
        if self.victim is None or not self.victim.exists():
            return
        victim = json.loads(self.victim.read_text())
        if victim["phase"] == phase:
            self.passed += 1
            if self.passed >= victim["count"]:
                self.victim.unlink()
                self.passed = 0
                os.kill(victim["pid"], signal.SIGKILL)

    def _write(self, entry):
        if self.file:
            self.file.write(json.dumps(entry) + "\n")
            self.file.flush()


@dataclasses.dataclass
class Completion:
    """What was generated for one request."""

    text: str
    finish: str
    usage: dict


class Invalid(ValueError):
    """A request that is answered with 400."""


class Teacher:
    """Generates, without a network: what the live and the batch interface share."""

    def __init__(self, options, ledger):
        self.options, self.ledger = options, ledger
        self.last = {}  # asks for JSON or not -> the last text
        self.made = 0

    def prompt_tokens(self, body):
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Invalid("'messages' must be a list that is not empty")
        if not all(isinstance(m.get("content"), str) and isinstance(m.get("role"), str) for m in messages):
            raise Invalid("each of 'messages' must have a 'role' and a 'content' of text")
        count = sum(MESSAGE_TOKENS + len(pieces(m["content"])) for m in messages)
        form = body.get("response_format") or {}
        return count + len(pieces(json.dumps(form["json_schema"]))) if "json_schema" in form else count

    def limit(self, body):
        """max_tokens of the completion."""
        names = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
        for name in names:
            if self.options.limit_name not in ("", name):
                other = self.options.limit_name
                raise Invalid(
                    f"Unsupported parameter: '{name}' is not supported with this model. Use '{other}' instead."
                )
        return int(body[names[0]]) if names else 4096

    def complete(self, body, fault, rng):
        """Raises Invalid where a real server answers 400."""
        tokens, limit = self.prompt_tokens(body), self.limit(body)
        if tokens + limit > self.options.context:
            said = f"This model's maximum context length is {self.options.context} tokens."
            raise Invalid(said)
        if self.options.fixed_temperature and "temperature" in body:
            raise Invalid("Unsupported value: 'temperature' does not support this value with this model.")
        messages = [(m["role"], m["content"]) for m in body["messages"]]
        schema, honoured = self._wanted(body, messages)
        text = answer(messages, schema, body.get("seed") or 0, self.options.hard, body.get("model"))
        finish = "stop"
        if schema and not honoured:
            text = wrapped(text, rng)
        if fault == "wrong_schema" and schema:
            text = rng.choice(('{"answer": 1}', "[]", text[: len(text) // 2], '{"code": 7, "tests": "none"}', ""))
        elif fault == "duplicate":
            text = self.last.get(bool(schema), text)
        elif fault == "refusal":
            text, finish = "I'm sorry, I can't assist with that request.", "refusal"
        elif fault == "content_filter":
            text, finish = text[: len(text) // 3], "content_filter"
        generated = pieces(text)
        reasoning = min(self.options.reasoning, limit)
        if fault == "length" or len(generated) + reasoning > limit:
            generated = generated[: min(limit - reasoning, max(1, len(generated) // 2))]
            text, finish = "".join(generated), "length"
        elif finish == "stop":
            self.last[bool(schema)] = text
        cached = tokens // 2 if self.options.shape == "openai" and rng.random() < 0.25 else 0
        usage = {"prompt": tokens, "completion": len(generated) + reasoning, "cached": cached, "reasoning": reasoning}
        return Completion(text, self.options.finish or finish, usage)

    def _wanted(self, body, messages):
        """(JSON schema or None, whether the server holds the model to it)."""
        form = body.get("response_format") or {"type": "text"}
        prompt = "\n".join(content for _, content in messages)
        shown = schema_in(prompt)
        kind = form["type"]
        if kind == "text":
            return shown, False
        if kind not in RUNGS or RUNGS.index(kind) > RUNGS.index(self.options.structured):
            if self.options.unsupported == "refuse":
                raise Invalid(
                    f"Invalid parameter: 'response_format' of type '{kind}' is not supported with this model."
                )
            return shown, False
        if kind == "json_object":
            if "json" not in prompt.lower():
                raise Invalid("'messages' must contain the word 'json' in some form, to use 'json_object'.")
            return shown or {"type": "object", "properties": {"answer": {"type": "string"}}}, True
        schema = form["json_schema"]["schema"]
        if form["json_schema"].get("strict"):
            _check_strict(schema)
        return schema, True

    def charge(self, body, completion, **what):
        return self.ledger.asked(
            about=_about(body), model=body.get("model"), status=completion.finish, **completion.usage, **what
        )

    def reply(self, body, completion, usage=True):
        self.made += 1
        return reply_of(
            self.options.shape, self.made, f"{body.get('model')}-2026-01-01", completion.text, completion.finish,
            completion.usage if usage else None,
        )  # fmt: skip


def _check_strict(schema):
    """OpenAI's condition on strict schemas, for every object in it."""
    for part in [schema, *schema.get("$defs", {}).values()]:
        if part.get("type") == "object" and (
            part.get("additionalProperties") is not False
            or sorted(part.get("required", [])) != sorted(part["properties"])
        ):
            raise Invalid("Invalid schema for response_format: 'additionalProperties' is required to be false.")


def _about(body):
    """The head of the first user message: by which tests tell requests apart."""
    return next((m["content"][:120] for m in body["messages"] if m["role"] == "user"), "")


class Server:
    def __init__(self, options):
        self.options = options
        self.ledger = Ledger(options.ledger, options.victim)
        self.teacher = Teacher(options, self.ledger)
        self.limits = Limits(options)
        self.in_flight = 0
        self.attempts = {}  # digest of the body -> how often it was asked
        self.batches = Batches(options, self.teacher)

    def app(self):
        app = web.Application(client_max_size=1 << 29, middlewares=[self._middleware])
        app.router.add_post("/v1/chat/completions", self.chat)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/ledger", self.state)
        self.batches.add_routes(app.router)
        return app

    @web.middleware
    async def _middleware(self, request, handler):
        """Keys, refusals, and faults of all but the chat completions, which have their own."""
        options = self.options
        if request.path == "/ledger":
            return await handler(request)
        said = request.headers.get("authorization", "")
        if options.refuse or (options.key and said != f"Bearer {options.key}"):
            status, body = REFUSALS[options.refuse or "key"]
            said = f"{body['error']['message']} You sent: {said}"
            return web.json_response({"error": {**body["error"], "message": said}}, status=status)
        if request.path == "/v1/chat/completions":
            self.in_flight += 1
            try:
                return await handler(request)
            finally:
                self.in_flight -= 1
        number = self.attempts[request.path] = self.attempts.get(request.path, 0) + 1
        fault, rng = choose(options, request.method, request.path, number)
        if fault not in UPKEEP:
            return await handler(request)
        if fault == "reset_before":
            break_connection(request)
            return web.Response()
        if fault == "reset_after":
            await handler(request)
            break_connection(request)
            return web.Response()
        status, body, headers = turned_away(fault, rng, options, request.headers)
        return web.json_response(body, status=status, headers=headers)

    async def models(self, _):
        return web.json_response({"object": "list", "data": [{"id": "teacher", "object": "model", "owned_by": "us"}]})

    async def state(self, _):
        return web.json_response({"asked": self.ledger.number, "in_flight": self.in_flight})

    async def chat(self, request):
        options = self.options
        try:
            body = json.loads(await request.read())
            if body.get("stream"):
                raise Invalid("this server does not stream")
            tokens = self.teacher.prompt_tokens(body)
            wait, headers = self.limits.take(tokens + self.teacher.limit(body))
        except (ValueError, AttributeError) as problem:
            return web.json_response(error(str(problem)), status=400)
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).digest()[:8]
        attempt = self.attempts[digest] = self.attempts.get(digest, 0) + 1
        entry = {"via": "live", "about": _about(body), "model": body.get("model"), "attempt": attempt}
        if wait > 0:
            self.ledger.asked(**entry, fault="limit", prompt=0, completion=0)
            said = error("Rate limit reached.", "tokens", code="rate_limit_exceeded")
            return web.json_response(said, status=429, headers=headers)
        fault, rng = choose(options, digest.hex(), attempt)
        if FAULTS.get(fault) == 0:
            self.ledger.asked(**entry, fault=fault, prompt=0, completion=0)
            if fault == "reset_before":
                break_connection(request)
                return web.Response()
            status, said, more = turned_away(fault, rng, options, request.headers)
            return web.json_response(said, status=status, headers={**headers, **more})
        self.ledger.reached("received")
        if options.forbid and options.forbid in json.dumps(body["messages"]):
            self.ledger.asked(**entry, fault="forbidden", prompt=0, completion=0)
            return web.json_response(error("Your request was flagged by moderation."), status=403)
        try:
            completion = self.teacher.complete(body, fault, rng)
        except Invalid as problem:
            self.ledger.asked(**entry, fault="invalid", prompt=0, completion=0)
            return web.json_response(error(str(problem)), status=400)
        if options.latency:
            await asyncio.sleep(rng.expovariate(1 / options.latency))
        number = self.teacher.charge(body, completion, via="live", attempt=attempt, fault=fault)
        self.ledger.reached("charged")
        said = json.dumps(self.teacher.reply(body, completion, usage=fault != "no_usage")).encode()
        return await self._deliver(request, fault, rng, said, number, headers)

    async def _deliver(self, request, fault, rng, body, number, headers):
        """Sends the reply, as far as the fault lets it."""
        if fault == "hang":
            end = time.monotonic() + self.options.hang_seconds
            while time.monotonic() < end and request.transport is not None:
                await asyncio.sleep(0.05)
        if fault in ("hang", "reset_after"):
            break_connection(request)
            return web.Response()
        response = web.StreamResponse(headers={"content-type": "application/json", **headers})
        if fault == "truncated" and rng.random() < 0.5:  # whole as HTTP, half as JSON
            fault, body = "cut", body[: len(body) // 2]
        elif fault == "html":
            body = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
        response.content_length = len(body)
        with contextlib.suppress(ConnectionError):
            await response.prepare(request)
            if fault == "truncated":
                await response.write(body[: len(body) // 2])
                break_connection(request)
                return response
            if fault == "slow_drip":
                step = max(1, len(body) // 20)
                for start in range(0, len(body), step):
                    await response.write(body[start : start + step])
                    await asyncio.sleep(self.options.drip_seconds / 20)
            else:
                await response.write(body)
            await response.write_eof()
            if fault not in ("cut", "html"):
                self.ledger.sent(number)
                self.ledger.reached("sent")
        return response


async def main(options):
    if options.instant:
        from llm_instant import Instant

        server = await asyncio.get_running_loop().create_server(Instant, "127.0.0.1", options.port, backlog=4096)
        port = server.sockets[0].getsockname()[1]
    else:
        # A handler whose client is gone is cancelled nowhere: a real server generates, and charges, to the end.
        runner = web.AppRunner(Server(options).app(), access_log=None, handler_cancellation=False)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", options.port, backlog=4096)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
    print(f"listening on http://127.0.0.1:{port}/v1", flush=True)
    await asyncio.Event().wait()


# --- For tests --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Serving:
    """A running server. base_url ends in /v1."""

    base_url: str
    path: Path
    process: subprocess.Popen

    def ledger(self):
        """All requests so far: dicts with "prompt" and "completion" tokens charged and "whole"; see the module."""
        entries = {}
        for line in self.path.read_text().splitlines():
            entry = json.loads(line)
            if entry.pop("event") == "sent":
                entries[entry["id"]]["whole"] = True
            else:
                entries[entry["id"]] = {"whole": False, "batch": None, **entry}
        return list(entries.values())

    def settled(self):
        """The ledger once no reply is under way: what a killed client asked for is charged after its death too."""
        while json.loads(urllib.request.urlopen(self.base_url[:-3] + "/ledger", timeout=30).read())["in_flight"]:
            time.sleep(0.02)
        return self.ledger()

    def stop(self):
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def serving(ledger=None, **options):
    """Runs the server; options as on its command line: serving(faults=0.3, seed=1, instant=True)."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(ledger or Path(directory, "ledger.jsonl"))
        path.touch()
        words = [sys.executable, __file__, "--ledger", str(path)]
        for name, value in options.items():
            if value is True:
                words += [f"--{name.replace('_', '-')}"]
            elif value is not False:
                said = ",".join(value) if isinstance(value, list | tuple) else str(value)
                words += [f"--{name.replace('_', '-')}={said}"]
        root = str(Path(__file__).resolve().parent.parent)
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        # It ends with this process: its standard input does.
        process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
        )
        server = Serving("", path, process)
        try:
            line = process.stdout.readline()
            if not line.startswith("listening on "):
                raise RuntimeError(f"llm_server did not start: {line!r}")
            server.base_url = line.split()[2]
            yield server
        finally:
            server.stop()


async def until_orphaned(options):
    """`main`, ended by the end of standard input where that is a pipe."""
    import stat

    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return await main(options)
    await asyncio.wait(
        [asyncio.ensure_future(main(options)), asyncio.ensure_future(asyncio.to_thread(sys.stdin.read))],
        return_when=asyncio.FIRST_COMPLETED,
    )
    os._exit(0)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(until_orphaned(parser().parse_args()))
