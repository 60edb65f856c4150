"""Request and reply over one socket, in both directions: a call may call back before it is answered."""

import builtins
import contextlib
import os
from collections.abc import Callable
from typing import Any

from .codec import CodecError, decode, encode

Ask = Callable[[Any], Any]
"""Sends a request and returns its answer; raises what the other process raised."""
TEXT_CHARACTERS = 4000  # of an exception
REQUEST_BYTES = 256 << 20  # what trusted processes send: a bound on accidents only

# An exception of these classes, raised inside the loops and generators of whoever asked, would end them in silence.
_DISARMED = (StopIteration, StopAsyncIteration)


class ChannelClosed(Exception):
    """The other process has closed its end, or is gone."""


class RemoteError(Exception):
    """The other process raised something that is no Exception of the builtins: a class of its own, or SystemExit."""


def read_frame(fd: int, limit: int = REQUEST_BYTES) -> bytes:
    """The next frame. Raises ChannelClosed at the end of the stream, CodecError for a frame above `limit`."""

    def read(count: int) -> bytes:
        data = b""
        while len(data) < count:
            piece = os.read(fd, count - len(data))
            if not piece:
                raise ChannelClosed
            data += piece
        return data

    try:
        length = int.from_bytes(read(8), "big")
        if length > limit:
            raise CodecError(f"a message above the limit of {limit} bytes")
        return read(length)
    except ConnectionResetError:  # it ended without reading what we sent
        raise ChannelClosed from None


def write_frame(fd: int, data: bytes) -> None:
    """Writes all of `data` as one frame. Raises ChannelClosed if nobody reads."""
    view = memoryview(len(data).to_bytes(8, "big") + data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except ConnectionError:
        raise ChannelClosed from None


def send(fd: int, value: object) -> None:
    """Writes plain data as a frame. Raises ChannelClosed."""
    write_frame(fd, encode(value, REQUEST_BYTES))


def receive(fd: int) -> Any:
    """Plain data that `send` wrote. Raises ChannelClosed, CodecError."""
    return decode(read_frame(fd))


class Channel:
    """One end. It answers the requests of the other end by `serve`; what that raises travels as an exception.

    Messages are tuples: ("ask", body), ("answer", value), ("raise", names, text). What is no plain data stays in its
    process, in `objects`, and travels as a number; the other end sees a proxy(ask, number) of it. owner: the tag of
    this end's objects, b"C" (candidate) or b"G" (given by the tests).
    """

    def __init__(
        self, fd: int, owner: bytes, proxy: Callable[[Ask, int], Any], serve: Ask, read_limit: int, write_limit: int
    ) -> None:
        self._fd = fd
        self._owner = owner
        self._proxy = proxy
        self._serve = serve
        self._read_limit = read_limit
        self._write_limit = write_limit
        self._numbers: dict[int, int] = {}
        self._proxies: dict[int, Any] = {}
        self.objects: list[Any] = []
        self.proxies_ask = self.ask

    def refer(self, value: Any) -> tuple[bytes, int]:
        """A reference to what is no plain data, for `encode`. Of the tests' own, only functions are lent."""
        if type(value) is self._proxy:
            return b"G" if self._owner == b"C" else b"C", value._number
        if self._owner == b"G" and not callable(value):
            raise CodecError(f"the tests pass a {type(value).__name__} object, which cannot be sent")
        number = self._numbers.setdefault(id(value), len(self.objects))
        if number == len(self.objects):
            self.objects.append(value)  # kept alive, so that its id stays its own
        return self._owner, number

    def resolve(self, owner: bytes, number: int) -> object:
        """What a reference stands for, for `decode`; the same proxy for the same object, so that `is` holds."""
        if owner != self._owner:
            return self._proxies.setdefault(number, self._proxy(self.proxies_ask, number))
        if number >= len(self.objects):
            raise CodecError("a reference to nothing")
        return self.objects[number]

    def ask(self, body: object) -> Any:
        """The other side's answer. Raises ChannelClosed, CodecError (a malformed message), or what the other side
        raised, as `_as_exception` says."""
        self._send("ask", body)
        return self.await_answer()

    def await_answer(self) -> Any:
        """As `ask`, for an answer that comes unasked; requests that come before it are answered."""
        while True:
            match decode(read_frame(self._fd, self._read_limit), self.resolve):
                case ("answer", value):
                    return value
                case ("raise", list(names), str(text)) if all(type(name) is str for name in names):
                    raise _as_exception(names, text)
                case ("ask", body):
                    self._answer(body)
                case _:
                    raise CodecError("a malformed message")

    def send_raise(self, error: BaseException) -> None:
        """Sends `error` in the place of an answer."""
        # KeyError's text is the repr of its key, and would be quoted twice by the KeyError made from it.
        bare = type(error) is KeyError and [*map(type, error.args)] == [str]
        text = error.args[0] if bare else text_of(error)
        self._send("raise", [kind.__name__ for kind in type(error).__mro__], text)

    def send_answer(self, value: object) -> None:
        """Sends an answer; a value that cannot travel goes as the exception that says so."""
        try:
            self._send("answer", value)
        except CodecError as error:
            self.send_raise(ValueError(str(error)))

    def _answer(self, body: Any) -> None:
        try:
            value = self._serve(body)
        except (ChannelClosed, CodecError):
            raise
        except BaseException as error:
            # SystemExit and KeyboardInterrupt too: what served code raises is its caller's news, not ours.
            self.send_raise(error)
        else:
            self.send_answer(value)

    def _send(self, *message: object) -> None:
        write_frame(self._fd, encode(message, self._write_limit, self.refer))


def _as_exception(names: list[str], text: str) -> Exception:
    """The builtin exception that the other side's is, or derives from; else RemoteError.

    names: of its classes, most derived first. Only subclasses of Exception: SystemExit and KeyboardInterrupt must not
    travel, they would end this process.
    """
    for name in names:
        kind = getattr(builtins, name, None)
        if kind is Exception and name != names[0]:
            break  # a class of its own: its name says more than "Exception"
        if isinstance(kind, type) and issubclass(kind, Exception) and kind not in _DISARMED:
            with contextlib.suppress(TypeError):  # UnicodeDecodeError and its like want more arguments
                return kind(text)
    return RemoteError(f"{names[0]}: {text}".removesuffix(": ") if names else text)


def text_of(error: BaseException) -> str:
    """The text of an exception, TEXT_CHARACTERS at most; an exception that cannot be printed has none."""
    try:
        # str() may return a subclass of str, whose slice need not be a str.
        return "".join(str(error))[:TEXT_CHARACTERS]
    except BaseException:
        return ""
