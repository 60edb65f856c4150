"""TensorBoard's event files, read back byte by byte."""

import struct

import pytest

from phi_jax.training.metrics import ScalarEvents


def events_of(directory):
    """The events of the one file in a directory: each is a length, its checksum, that many bytes, their checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = directory.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[12 + length + 4 :]
    return found


def test_what_is_added_is_in_the_file(tmp_path):
    with ScalarEvents(tmp_path / "board", first_step=7) as board:
        board.add(7, {"loss": 2.5, "grad_norm": 0.125})
    version, start, added = events_of(tmp_path / "board")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, start.session_log.START)
    assert added.step == 7
    assert {v.tag: v.simple_value for v in added.summary.value} == {"loss": 2.5, "grad_norm": 0.125}


def test_a_write_that_fails_is_an_error_here(tmp_path):
    board = ScalarEvents(tmp_path / "board", first_step=0)
    board._file._py_recordio_writer._writer = open("/dev/full", "wb")  # noqa: SIM115
    with pytest.raises(OSError, match="No space left"):
        board.add(0, {"loss": 1.0})
