"""How a request is written for one server."""

from __future__ import annotations

import re
from typing import Any

from phi_jax.progress import say
from phi_jax.teacher.request import Endpoint, Messages, Request, Status
from phi_jax.teacher.server.json_mode import response_format, wish

# What a server may refuse -> what is sent from then on.
_INSTEAD = {
    "max_completion_tokens": "max_tokens goes by the name max_completion_tokens from here on",
    "temperature": "requests go without temperature from here on",
    "seed": "requests go without seed from here on",
    "response_format": "JSON is asked for in the prompt alone from here on, as with json_mode=text",
}


class Dialect:
    """The JSON mode of one server, and the parameters that it refused, which are no longer sent.

    A parameter that goes is said once. refused: their names, as an earlier run learnt them.
    """

    def __init__(self, endpoint: Endpoint, refused: str = "") -> None:
        self._endpoint = endpoint
        self._refused = {name for name in refused.split() if name in _INSTEAD}
        self._fits = False  # whether a reply in this JSON mode has fitted its schema

    @property
    def refused(self) -> str:
        """Names, apart by spaces."""
        return " ".join(sorted(self._refused))

    def body(self, request: Request, correction: Messages = ()) -> dict[str, Any]:
        """The body of POST /chat/completions. correction: messages behind the request's own."""
        messages = [{"role": role, "content": content} for role, content in request.messages]
        mode = "text" if "response_format" in self._refused else self._endpoint.json_mode
        if request.schema is not None and mode != "schema":
            messages[-1]["content"] += f"\n\n{wish(request.schema)}"
        messages += [{"role": role, "content": content} for role, content in correction]
        limit = "max_completion_tokens" if "max_completion_tokens" in self._refused else "max_tokens"
        body = {"model": request.model, "messages": messages, limit: request.max_tokens}
        for name in {"temperature", "seed"} - self._refused:
            body[name] = getattr(request, name)
        if request.schema is not None and mode != "text":
            body["response_format"] = response_format(request.schema, mode)
        return body

    def learn(self, refusal: str, sent: str) -> bool:
        """Whether the server refused a parameter that can be changed, so that the request is to be sent again.

        refusal: the server's message, which names it in quotes. sent: what `refused` was when the request went out.
        """
        for name in _INSTEAD:
            if name not in sent.split() and re.search(rf"['\"`]{name}\b", refusal):
                self._refuse(name, refusal)
                return True
        return False

    def note_fit(self, request: Request, status: Status) -> None:
        """Tells what came of a reply. POISONED before any was ANSWERED: the server ignores the JSON mode."""
        if request.schema is None:
            return
        if status is Status.POISONED and not self._fits and self._endpoint.json_mode != "text":
            self._refuse("response_format", f"it does not hold replies to json_mode={self._endpoint.json_mode}")
        self._fits |= status is Status.ANSWERED

    def _refuse(self, name: str, why: str) -> None:
        if name not in self._refused:
            self._refused.add(name)
            say(f"teacher {self._endpoint.name}: {_INSTEAD[name]} ({why})")
