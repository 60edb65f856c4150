"""A value that is handed on in an unnamed file: whoever passes the file on has not read it."""

import _socket
import os
import sys
from typing import Any

from .channel import ChannelClosed, read_frame, write_frame
from .codec import Side, decode, encode

_PLAIN = Side()
_MARK = b"F"  # descriptors travel beside a byte at least


def send_file(link: int, value: object, limit: int) -> None:
    """Sends a file that holds `value`, plain data. Raises CodecError above `limit` bytes, ChannelClosed, OSError."""
    file = _unnamed()
    try:
        write_frame(file, encode(value, _PLAIN, limit))
        os.lseek(file, 0, os.SEEK_SET)
        end = _socket.socket(fileno=os.dup(link))
        try:
            end.sendmsg([_MARK], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, file.to_bytes(4, sys.byteorder))])
        except (BrokenPipeError, ConnectionResetError):
            raise ChannelClosed from None
        finally:
            end.close()
    finally:
        os.close(file)


def receive_file(link: _socket.socket) -> int:
    """The descriptor of a file that was sent. Raises ChannelClosed."""
    mark, received, _, _ = link.recvmsg(1, _socket.CMSG_SPACE(4))
    if not mark or not received:
        raise ChannelClosed
    return int.from_bytes(received[0][2][:4], sys.byteorder)


def read_file(file: int, limit: int) -> Any:
    """The value in a file that was sent; closes it. Raises CodecError."""
    try:
        return decode(read_frame(file, limit), _PLAIN)
    finally:
        os.close(file)


def _unnamed() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("value")
    import tempfile  # not at the top: the fork server would have it in the memory that each fork copies

    descriptor, name = tempfile.mkstemp()
    os.unlink(name)
    return descriptor
