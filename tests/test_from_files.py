"""Stage `synthesize` with somebody's texts: any file's rows go somewhere, and the same checks decide."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given as given_values
from hypothesis import settings
from hypothesis import strategies as st

from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.store import artifact, documents
from phi_jax.store.rows import Given
from phi_jax.synthesis import from_files as stage
from phi_jax.synthesis import review

CODE = '''def join_{noun}({noun}):
    """Return the {noun} in {order} order, joined by commas.

    >>> join_{noun}(["b", "a"])
    {example}
    """
    return ",".join(sorted({noun}, reverse={reverse}))
'''
RISING = CODE.format(noun="names", order="rising", example="'a,b'", reverse=False)
FALLING = CODE.format(noun="towns", order="falling", example="'b,a'", reverse=True)
TESTS = [
    "assert join_names([]) == ''",
    "assert join_names(['x']) == 'x'",
    "assert join_names(['n', 'c']) == 'c,n'",
    "assert join_names(['n', 'c', 'n']) == 'c,n,n'",
]
SECTION = "# Sums\n\nA plus is enough.\n\n```python\nprint(1 + 2)\n```\n\n```output\n3\n```\n"
ROWS = (
    {"kind": "exercises", "text": RISING, "tests": TESTS, "teacher": "gpt-5", "license": "MIT"},
    {"kind": "exercises", "text": FALLING},
    {"kind": "textbooks", "text": f"Sure! Here is a section on sums:\n\n{SECTION}"},
    {"kind": "textbooks", "text": SECTION.replace("\n3\n", "\n4\n"), "source": "notes", "path": "sums.md"},
    {"kind": "poems", "text": "..."},
    {"kind": "textbooks", "text": 7},
    {"text": "who knows what"},
)


def config_of(*files):
    return Config(
        {
            "texts": {
                "mine": {
                    "writer": "files", "files": files, "license": "CC-BY-4.0", "near_copy_threshold": 0.8,
                    "sandbox": "full", "sandbox_workers": 2,
                }
            }
        }
    )  # fmt: skip


def open_draft(workdir):
    return artifact.open_draft(workdir, "synthesize", "mine", {}, {})


def build(workdir, *files):
    draft = open_draft(workdir)
    stage.synthesize(config_of(*map(str, files)), {}, draft)
    return draft.commit()


def rows_of(built, name, columns=(*documents.SCHEMA.names, "lesson", "teacher", "tests")):
    return list(documents.read(built.path(name), columns))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("given")
    (root / "texts" / "deep").mkdir(parents=True)
    lines = [json.dumps(row) for row in ROWS]
    (root / "texts" / "mine.jsonl").write_text("\n".join([*lines, "", "{broken", '"no object"']) + "\n")
    pq.write_table(
        pa.Table.from_pylist([{"text": RISING, "tests": TESTS, "language": "python"}]),
        root / "texts" / "deep" / "again.parquet",
    )
    return build(root / "w", root / "texts")


def test_the_same_checks_decide_and_all_adds_up(built):
    exercises, textbooks = built.facts["exercises"], built.facts["textbooks"]
    assert (exercises["kept"], exercises["reasons"]) == (2, {"identical": 1, "no_text": 5})
    assert (textbooks["kept"], textbooks["reasons"], textbooks["boilerplate_removed"]) == (1, {"wrong_output": 1}, 1)
    assert built.facts["written_by"] == "files"
    reasons = {
        row["path"]: row["reason"]
        for kind in ("exercises", "textbooks")
        for row in documents.read(built.path("set_aside") / kind, ("path", "reason"))
    }
    assert reasons == {
        "mine.jsonl:1": "the same text stands above",  # again.parquet has it too, and comes first
        "sums.md": "block 1 prints '3', not '4'",
        "mine.jsonl:5": "its kind is 'poems', not one of textbooks, exercises",
        "mine.jsonl:6": "text: Input should be a valid string",
        "mine.jsonl:7": "its kind is '', not one of textbooks, exercises",
        "mine.jsonl:8": "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))",
        "mine.jsonl:9": "not a JSON object",
    }


def test_what_a_row_says_of_itself_is_taken_over(built):
    rising, falling = rows_of(built, "exercises")
    assert (rising["text"], rising["source"], rising["path"]) == (RISING, "again.parquet", "again.parquet:1")
    assert (rising["license"], rising["teacher"]) == ("CC-BY-4.0", None)
    assert json.loads(rising["tests"]) == TESTS
    assert (falling["text"], falling["tests"], falling["lesson"]) == (FALLING, None, None)
    (section,) = rows_of(built, "textbooks")
    assert section["text"].strip() == SECTION.strip()
    assert (section["language"], section["source"], section["path"]) == ("markdown", "mine.jsonl", "mine.jsonl:3")


def test_our_own_documents_are_texts_too(built, tmp_path):
    """What the stage kept, it keeps again: the checks are the same, and nothing is lost on the way."""
    again = build(tmp_path / "w", built.path("exercises"), built.path("textbooks"))
    for kind in ("exercises", "textbooks"):
        assert rows_of(again, kind) == rows_of(built, kind)
        assert again.facts[kind]["set_aside"] == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: (), "config.texts.mine.files is empty; name the texts"),
        (
            lambda root: (root / "missing.jsonl",),
            "missing.jsonl: no regular file in .parquet, .jsonl, .jso",
        ),
        (lambda root: (root / "empty",), "empty: no regular file in .parquet"),
        (lambda root: (root / "a.txt",), "a.txt: no regular file in .parquet"),
        (lambda root: (root / "broken.parquet",), "broken.parquet: cannot be read"),
        (lambda root: (root / "odd",), "pipe.jsonl: no regular file in .parquet"),
    ],
)
def test_files_that_are_none_are_named(make, message, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    os.mkfifo(tmp_path / "odd" / "pipe.jsonl")
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "broken.parquet").write_text("x")
    with pytest.raises(UserError) as error:
        build(tmp_path / "w", *make(tmp_path))
    assert message in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda v: st.lists(v) | st.dictionaries(st.text(), v),
    max_leaves=4,
)
FIELDS = ("kind", "text", "tests", "source", "path", "license", "language", "teacher")
fields = st.sampled_from(FIELDS)
likely = st.sampled_from(
    ["textbooks", "exercises", "python", "markdown", "assert f(1) == 2\nassert f(2) == 3", '["x"]']
)


@settings(max_examples=60)
@given_values(st.lists(st.dictionaries(fields, likely | json_values) | json_values, max_size=4))
def test_any_row_goes_somewhere(tmp_path_factory, rows):
    """Each row of a file becomes one text of one kind; what cannot be one says why."""
    file = tmp_path_factory.getbasetemp() / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rules = config_of().texts.mine.over(stage._LATER)
    found = list(stage._texts([("rows.jsonl", "rows.jsonl", file)], rules, "mine"))
    assert len(found) == len(rows)
    for row, (kind, text) in zip(rows, found, strict=True):
        pa.Table.from_pylist([review._tidied(kind, text)], schema=review.SCHEMA)
        assert text["code"] or text["text"] == row["text"]


@pytest.mark.parametrize(
    ("value", "tests"),
    [
        (None, None),
        ([], None),
        ("[]", None),
        (["assert a", "assert b"], ["assert a", "assert b"]),
        ('["assert a", "assert b"]', ["assert a", "assert b"]),
        ("assert a", "no_text"),
        ([1], "no_text"),
    ],
)
def test_tests_are_a_list(value, tests):
    _, row = stage._text(Given("", {"kind": "exercises", "text": "x", "tests": value}), {}, "")
    assert (row["code"] or (row["tests"] and json.loads(row["tests"]))) == tests


def test_columns_of_other_names_become_texts_of_the_entrys_kind(tmp_path):
    """As jinaai/code_exercises and open-phi/programming_books_llama have them."""
    problem, closing, solution = RISING.rpartition('"""')
    pairs = [{"problem": problem + closing, "solution": solution}, {"problem": problem + closing, "solution": None}]
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    pq.write_table(pa.Table.from_pylist([{"markdown": SECTION, "model": "gpt-3.5"}]), tmp_path / "books.parquet")
    (tmp_path / "more.json.gz").write_bytes(gzip.compress(json.dumps({"markdown": SECTION + "More.\n"}).encode()))

    def mapped(name, files, **fields):
        rules = {
            **config_of(*map(str, files)).to_dict()["texts"]["mine"],
            "teacher": "somebody",
            "terms": "None.",
            **fields,
        }
        draft = open_draft(tmp_path / name)
        stage.synthesize(Config({"texts": {"mine": rules}}), {}, draft)
        return draft.commit()

    built = mapped("a", [tmp_path / "pairs.parquet"], columns=("text=problem+solution",), kind="exercises")
    (row,) = rows_of(built, "exercises")
    assert (row["text"], row["teacher"], row["license"]) == (RISING, "somebody", "CC-BY-4.0")
    assert built.facts["exercises"]["reasons"] == {"no_text": 1}
    assert (built.facts["license"], built.facts["teacher"], built.facts["terms"]) == ("CC-BY-4.0", "somebody", "None.")
    files = [tmp_path / "books.parquet", tmp_path / "more.json.gz"]
    built = mapped("b", files, columns=("text=markdown", "teacher=model"), kind="textbooks", near_copy_threshold=1.0)
    assert {row["teacher"] for row in rows_of(built, "textbooks")} == {"gpt-3.5", "somebody"}
    with pytest.raises(UserError, match=r"config\.texts\.mine\.columns: 'texts=markdown'; write NAME=COLUMN or"):
        mapped("c", files, columns=("texts=markdown",))
