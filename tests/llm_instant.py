"""The test server with nothing to do: one fixed chat completion for whatever is asked, from bytes made beforehand."""

import asyncio
import json

from llm_faults import reply_of

USAGE = {"prompt": 20, "completion": 10, "cached": 0, "reasoning": 0}
TEXT = "The quick brown fox jumps over the lazy dog."


def _response(value):
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    limits = "x-ratelimit-limit-requests: 30000000\r\nx-ratelimit-remaining-requests: 29999999\r\n"
    limits += "x-ratelimit-limit-tokens: 150000000000\r\nx-ratelimit-remaining-tokens: 149999999999\r\n"
    return (head + limits + "\r\n").encode() + body


REPLY = _response(reply_of("openai", 1, "teacher", TEXT, "stop", USAGE))
MODELS = _response({"object": "list", "data": [{"id": "teacher", "object": "model", "owned_by": "us"}]})


class Instant(asyncio.Protocol):
    """HTTP/1.1 with keep-alive; bodies by Content-Length."""

    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""

    def data_received(self, data):
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
            whole = end + 4 + length
            if len(self.buffer) < whole:
                return
            self.transport.write(MODELS if head.startswith(b"get") else REPLY)
            self.buffer = self.buffer[whole:]
