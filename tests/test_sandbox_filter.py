"""The seccomp filter, run by an interpreter of our own: what it says to each system call, on both architectures."""

import errno
import struct

import pytest

from phi_jax.sandbox.kernel import seccomp

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def answer(code: bytes, audit: int, number: int, arguments: tuple[int, ...] = (0,) * 6) -> int:
    """What the filter returns: classic BPF over struct seccomp_data."""
    data = struct.pack("<iIQ6Q", number if number < 1 << 31 else number - (1 << 32), audit, 0, *arguments)
    loaded, position = 0, 0
    while True:
        kind, true, false, value = struct.unpack_from("<HBBI", code, 8 * position)
        position += 1
        if kind == 0x06:
            return value
        if kind == 0x20:
            (loaded,) = struct.unpack_from("<I", data, value)
        elif kind == 0x05:
            position += value
        else:
            assert kind in (0x15, 0x35)
            position += true if (loaded == value if kind == 0x15 else loaded >= value) else false


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_call_is_answered_by_the_table(machine: str) -> None:
    code = seccomp.program(machine)
    audit, calls = seccomp._ARCHITECTURES[machine]
    names = {number: name for name, number in (calls | seccomp._COMMON).items()}
    assert len(names) > 80
    for number in [*range(1200), 1 << 29, (1 << 32) - 1]:
        name = names.get(number)
        if name is None:
            expected = ERRNO | (errno.ENOSYS if number >= 450 else errno.EPERM)
            if machine == "x86_64" and number >= 1 << 30:
                expected = KILL
        elif name in seccomp._CHECKED:
            accepted = [0] * 6
            for argument, allowed in seccomp._CHECKED[name]:
                accepted[argument] = allowed[-1]
            assert answer(code, audit, number, tuple(accepted)) == ALLOW, name
            for argument, _ in seccomp._CHECKED[name]:
                refused = tuple(0x7777 if i == argument else value for i, value in enumerate(accepted))
                assert answer(code, audit, number, refused) == ERRNO | errno.EPERM, name
            continue
        else:
            expected = ERRNO | seccomp._REFUSED[name] if name in seccomp._REFUSED else ALLOW
        assert answer(code, audit, number) == expected, (number, name)
    assert answer(code, audit ^ 1, 0) == KILL
