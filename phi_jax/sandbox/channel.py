"""Request and reply over one socket, in both directions: a call may call back before it is answered."""

import builtins
import os
import struct
from collections.abc import Callable
from typing import Any

from .codec import CodecError, Side, decode, encode

_HEADER = struct.Struct(">Q")
TEXT_CHARACTERS = 4000  # of an exception

# An exception of these classes, raised inside the loops and generators of whoever asked, would end them in silence.
_DISARMED = (StopIteration, StopAsyncIteration)


class ChannelClosed(Exception):
    """The other process has closed its end, or is gone."""


class RemoteError(Exception):
    """The other process raised something that is no Exception of the builtins: a class of its own, or SystemExit."""


def read_exactly(fd: int, count: int) -> bytes:
    """`count` bytes from `fd`. Raises ChannelClosed at the end of the stream."""
    pieces = []
    while count:
        try:
            piece = os.read(fd, min(count, 1 << 20))
        except ConnectionResetError:  # it ended without reading what we sent
            piece = b""
        if not piece:
            raise ChannelClosed
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def read_frame(fd: int, limit: int) -> bytes:
    """The next frame. Raises ChannelClosed at the end of the stream, CodecError for a frame above `limit`."""
    (length,) = _HEADER.unpack(read_exactly(fd, _HEADER.size))
    if length > limit:
        raise CodecError(f"a message above the limit of {limit} bytes")
    return read_exactly(fd, length)


def write_frame(fd: int, data: bytes) -> None:
    """Writes all of `data` as one frame. Raises ChannelClosed if nobody reads."""
    view = memoryview(_HEADER.pack(len(data)) + data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except (BrokenPipeError, ConnectionResetError):
        raise ChannelClosed from None


class Channel:
    """One end. `serve(body)` answers the requests of the other end; what it raises travels as an exception.

    Messages are tuples: ("ask", body), ("answer", value), ("raise", names, text).
    """

    def __init__(
        self, fd: int, side: Side, serve: Callable[[Any], object], *, read_limit: int, write_limit: int
    ) -> None:
        self._fd = fd
        self._side = side
        self._serve = serve
        self._read_limit = read_limit
        self._write_limit = write_limit

    def ask(self, body: object) -> Any:
        """The other side's answer. Raises ChannelClosed, CodecError (a malformed message), or what the other side
        raised, as `_as_exception` says."""
        self._send("ask", body)
        return self.await_answer()

    def await_answer(self) -> Any:
        """As `ask`, for an answer that comes unasked."""
        while True:
            message = self._receive()
            if message[0] == "answer" and len(message) == 2:
                return message[1]
            if message[0] == "raise" and len(message) == 3:
                raise _as_exception(message[1], message[2])
            self._answer(message)

    def serve_forever(self) -> None:
        """Answers requests until the other side closes."""
        try:
            while True:
                self._answer(self._receive())
        except ChannelClosed:
            return

    def send_raise(self, error: BaseException) -> None:
        """Sends `error` in the place of an answer."""
        # KeyError's text is the repr of its key, and would be quoted twice by the KeyError made from it.
        bare = type(error) is KeyError and len(error.args) == 1 and type(error.args[0]) is str
        text = error.args[0][:TEXT_CHARACTERS] if bare else text_of(error)
        self._send("raise", [kind.__name__ for kind in type(error).__mro__], text)

    def send_answer(self, value: object) -> None:
        """Sends an answer; a value that cannot travel goes as the exception that says so."""
        try:
            self._send("answer", value)
        except CodecError as error:
            self.send_raise(ValueError(str(error)))

    def _answer(self, message: tuple[Any, ...]) -> None:
        if message[0] != "ask" or len(message) != 2:
            raise CodecError("a message that is neither request nor answer")
        try:
            value = self._serve(message[1])
        except (ChannelClosed, CodecError):
            raise
        except BaseException as error:
            # SystemExit and KeyboardInterrupt too: what served code raises is its caller's news, not ours.
            self.send_raise(error)
        else:
            self.send_answer(value)

    def _send(self, *message: object) -> None:
        write_frame(self._fd, encode(message, self._side, self._write_limit))

    def _receive(self) -> tuple[Any, ...]:
        message = decode(read_frame(self._fd, self._read_limit), self._side)
        if type(message) is not tuple or not message or type(message[0]) is not str:
            raise CodecError("a malformed message")
        return message


def _as_exception(names: Any, text: Any) -> Exception:
    """The builtin exception that the other side's is, or derives from; else RemoteError.

    names: of its classes, most derived first. Only subclasses of Exception: SystemExit and KeyboardInterrupt must not
    travel, they would end this process.
    """
    if type(names) is not list or not all(type(name) is str for name in names) or type(text) is not str:
        return CodecError("a malformed exception")
    for name in names:
        kind = getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)) or kind in _DISARMED:
            continue
        if kind is Exception and name != names[0]:
            break  # a class of its own: its name says more than "Exception"
        try:
            return kind(text)
        except TypeError:  # UnicodeDecodeError and its like want more arguments
            continue
    return RemoteError(": ".join([*names[:1], *filter(None, [text])]) or "Exception")


def text_of(error: BaseException) -> str:
    """The text of an exception, TEXT_CHARACTERS at most; an exception that cannot be printed has none."""
    try:
        # str() may return a subclass of str, whose slice need not be a str.
        return "".join(str(error))[:TEXT_CHARACTERS]
    except BaseException:
        return ""
