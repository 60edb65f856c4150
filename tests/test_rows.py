"""What somebody hands us: one function opens it, one form of texts comes out, and one writer of JSON answers."""

import functools
import json
import math
import os
import socket

import fuzz_rows
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phi_jax.errors import UserError
from phi_jax.evaluation.commands import score
from phi_jax.evaluation.execution import read_samples
from phi_jax.evaluation.problems import load_problems
from phi_jax.store.artifact import write_json
from phi_jax.store.json_text import json_text
from phi_jax.store.rows import count_rows, normal, read_object, read_rows
from phi_jax.teacher.prices import load_prices

ROW = fuzz_rows.HUMAN_EVAL


def test_every_file_is_read_or_named():
    """The same as in tests/acceptance/test_fuzz_rows.py, with fewer inputs."""
    found = fuzz_rows.run(200)
    assert found["faults"] == []
    assert all(came["row"] and came["error"] for came in found["came out"].values())


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "socket", "directory", "dangling link", "circular link", "device"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, kind):
    path = tmp_path / "x.jsonl"
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
    elif kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"dangling link": "gone", "circular link": path, "device": "/dev/zero"}[kind])
    samples = functools.partial(read_samples, problems=[])
    for read in (lambda p: list(read_rows(p)), count_rows, read_object, samples, load_prices):
        with pytest.raises(UserError, match=r"x\.jsonl: no such file, or no regular one"):
            read(path)
    with pytest.raises(UserError, match=r"x\.jsonl: neither built in .* nor a file"):
        load_problems(str(path))


@pytest.mark.parametrize("kind", fuzz_rows.TYPES, ids=str)
def test_a_benchmark_may_be_parquet_of_any_type_of_text(tmp_path, kind):
    columns = {
        name: pa.array([value.encode()], pa.binary()).cast(pa.string()).cast(kind) for name, value in ROW.items()
    }
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    name, (problem,) = load_problems(str(tmp_path / "test.parquet"))
    assert (name, problem.prompt, problem.reference) == ("test", ROW["prompt"], ROW["canonical_solution"])


def test_one_string_that_is_no_utf8_costs_its_row_alone(tmp_path):
    raw = pa.array([b"one", b"\xff", None, b"four"], pa.binary())
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 4, raw.buffers())}), tmp_path / "a.parquet")
    found = list(read_rows(tmp_path / "a.parquet"))
    assert [given.row.get("text") for given in found] == ["one", None, None, "four"]
    assert [bool(given.fault) for given in found] == [False, True, False, False]
    assert found[1].place.endswith("a.parquet: row 2")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_lines_and_lists_may_begin_with_a_mark_and_end_as_on_windows(tmp_path, name):
    lines = b"\r\n".join([b'{"a": 1}', b"", b'{"a": 2}'])
    for data in (lines, json.dumps([{"a": 1}, {"a": 2}]).encode()) if name == "a.json" else (lines,):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + data)
        assert [given.row for given in read_rows(tmp_path / name)] == [{"a": 1}, {"a": 2}]
        assert count_rows(tmp_path / name) == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"prompt": "\ud800"}, "not UTF-8"),
        ({"canonical_solution": "x\0"}, "NUL in it"),
        ({"task_id": "\udc00"}, "not UTF-8"),
        ({"canonical_solution": 7}, "no text in field 'canonical_solution'"),
        ({"renderings": "x"}, "no list of texts in field 'renderings'"),
        ({"stop": ["dedent"]}, "field 'stop' is"),
    ],
)
def test_a_problem_that_no_program_can_come_of_is_named(tmp_path, change, said):
    """Not scored 0, which would look like the model's failure."""
    (tmp_path / "p.jsonl").write_text(json.dumps(ROW | change))
    with pytest.raises(UserError, match=rf"p\.jsonl:1: .*{said}"):
        load_problems(str(tmp_path / "p.jsonl"))


def test_a_problem_is_the_same_with_the_line_ends_of_windows(tmp_path):
    found = []
    for number, ends in enumerate(("\n", "\r\n", "\r")):
        row = {name: "\ufeff" + text.replace("\n", ends) for name, text in ROW.items()}
        (tmp_path / f"{number}.jsonl").write_text(json.dumps(row))
        found += load_problems(str(tmp_path / f"{number}.jsonl"))[1]
    assert found[0] == found[1] == found[2]


def test_names_that_are_not_utf8_are_written_escaped(tmp_path):
    problems, samples = (os.fsdecode(os.fsencode(tmp_path) + name) for name in (b"/caf\xe9.jsonl", b"/\xff.jsonl"))
    for path, row in ((problems, ROW), (samples, {"task_id": ROW["task_id"], "completion": ROW["canonical_solution"]})):
        with open(path, "w") as file:
            file.write(json.dumps(row))
    scores = score(samples, None, str(tmp_path / "out"), problems_file=problems)
    assert [(s["model"], s["benchmark"], s["value"]) for s in scores] == [("\\udcff.jsonl", "caf\\udce9", 1.0)]
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores


@settings(max_examples=100)
@given(st.text(st.characters(exclude_categories=[])))
def test_the_one_form_of_a_text(text):
    """It is reached once and for all, or there is none."""
    try:
        found = normal(text)
    except ValueError:
        assert "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)
        return
    assert normal(found.encode()) == found or found.startswith("\ufeff")
    assert "\r" not in found


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=100)
@given(values)
def test_json_for_other_readers(tmp_path_factory, value):
    """NaN and infinities are null at any depth, and nothing else changes; half a surrogate pair comes back."""

    def expected(inner):
        if isinstance(inner, float) and not math.isfinite(inner):
            return None
        if isinstance(inner, dict):
            return {name: expected(one) for name, one in inner.items()}
        return [expected(one) for one in inner] if isinstance(inner, list | tuple) else inner

    def refuse(constant):
        pytest.fail(f"{constant} is no JSON")

    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    for text in (json_text(value), path.read_text()):
        assert json.loads(text, parse_constant=refuse) == expected(value)
