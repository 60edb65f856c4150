"""Completions by a model behind an OpenAI-compatible server, asked in chats through the teacher's journal and budget.

A chat model answers with code in a Markdown fence, most often the whole function again. So the prompt's form is "chat":
the reply's code goes behind the whole prompt, whose function it defines anew.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.evaluation.backends import seed_of
from phi_jax.evaluation.completion import Completion, Plan, Request
from phi_jax.progress import note
from phi_jax.store.artifact import Json
from phi_jax.teacher import request as teacher
from phi_jax.teacher.prices import SERVER
from phi_jax.teacher.teachers import Teachers
from phi_jax.teacher.templates import read_template

_TEMPLATE = Path(__file__).with_name("chat.v1.md")


class Server(NamedTuple):
    """A model behind a server, and what it may cost."""

    url: str  # e.g. "https://api.openai.com/v1"
    model: str  # as the server calls it
    max_dollars: float  # on all that the journal ever booked
    key_variable: str = ""  # environment variable that holds the API key; "" = the server wants none
    price_as: str = "local"  # entry of the price table; "local" costs nothing


class ServerBackend:
    """See completion.Backend."""

    def __init__(self, server: Server, plan: Plan, journal: str) -> None:
        """Raises UserError for a plan that the requests cannot carry, and for an address that is none."""
        if urlsplit(server.url).scheme not in ("http", "https") or not urlsplit(server.url).hostname:
            raise UserError(f"--server {server.url}: no address; write it as in https://api.openai.com/v1")
        if plan.top_p < 1 or plan.top_k:
            raise UserError("--server: draws by temperature alone; leave out --top-p and --top-k")
        self._server, self._plan, self._journal = server, plan, journal
        self._template = read_template(_TEMPLATE)
        self.settings: Json = {"backend": "server", "url": server.url, "prompt": self._template.note()}

    def complete(self, requests: Sequence[Request], label: str) -> Iterator[tuple[int, Completion]]:
        """Replies that are in the journal cost nothing. A reply that is no answer is an empty completion.

        Raises UserError as Teachers.ask, with the options of the command line in the place of config fields.
        """
        server = self._server
        section = {
            "base_url": server.url, "model": server.model, "key_variable": server.key_variable,
            "price_as": server.price_as, "mode": "live", "window": 8, "batch_requests": 1,
            "timeout": 600.0, "attempts": 6, "json_mode": "text",
        }  # fmt: skip
        budget = {"max_dollars": server.max_dollars, "journal": self._journal, "prices": ""}
        config = Config({"teachers": {SERVER: section}, "budget": budget})
        asked = [self._asked(request) for request in requests]
        with Teachers(config, self._journal) as teachers:
            teachers.shares(SERVER)
            teachers.ask(lambda: asked, label, len(asked))
            replies = list(map(teachers.reply, asked))
            missing = Counter(reply.reason for reply in replies if reply.status == "poisoned")
            for reason, count in missing.most_common():
                note(f"{label}: {count:,} of {len(asked):,} completions are empty, as no answer came: {reason}")
            for i, reply in enumerate(replies):
                answered = reply.status == "answered"
                reason = "end_of_text" if answered else reply.status
                yield i, Completion(reply.text if answered else "", reply.completion, reason)

    def _asked(self, request: Request) -> teacher.Request:
        return teacher.Request(
            model=self._server.model,
            messages=self._template.messages(code=request.shown),
            max_tokens=self._plan.max_new_tokens,
            temperature=0.0 if request.is_greedy else self._plan.temperature,
            seed=seed_of(self._plan, request),
            label=f"evaluate/{request.task_id}/{request.sample}",
        )
