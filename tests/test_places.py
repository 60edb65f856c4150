"""Data that lie elsewhere: data sets on the Hub (hf://), and object stores (s3://, gs://)."""

import gzip
import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem
from published import hub
from running import ROOT

from phi_jax.config import Config
from phi_jax.corpus import sources
from phi_jax.errors import UserError
from phi_jax.store import digests, rows
from phi_jax.store import hub as places
from phi_jax.synthesis import from_files

COMMIT = "a" * 40


# --- The Hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    """(URL, paths that it is asked for) of a Hub with owner/set, of whose files four are tables."""
    root = tmp_path / "served"
    (root / "data" / "old").mkdir(parents=True)
    for name in ("data/b.parquet", "data/a.parquet", "data/old/c.parquet"):
        pq.write_table(pa.table({"text": [name]}), root / name)
    (root / "d.json.gz").write_bytes(gzip.compress(b'{"text": "d"}\n'))
    (root / "data" / "README.md").write_text("no table")
    with hub({"datasets/owner/set": root}) as running:
        yield running


def fetched(tmp_path, *sources, **environment):
    """What `hub.fetch` says of each source, in a process of its own: the Hub's client reads its settings at import."""
    code = (
        "import sys\nfrom phi_jax.errors import UserError\nfrom phi_jax.store import hub\n"
        "for source in sys.argv[1:]:\n"
        "    try:\n        found = hub.fetch(source, ('.parquet', '.json.gz'))\n"
        "        print(*[path for _, path, file in found if file.is_file()])\n"
        "    except UserError as error:\n        print(error)"
    )
    env = {"PATH": "", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run([sys.executable, "-c", code, *sources], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_matches_is_fetched_once_and_what_does_not_is_one_line(served, tmp_path):
    url, asked = served
    said = fetched(
        tmp_path,
        "hf://datasets/owner/set/data/*", "hf://datasets/owner/set@main/data/?.parquet", "hf://datasets/owner/set/*.gz",
        "hf://datasets/owner/set/*.csv", "hf://datasets/owner/other/*", "hf://owner/set/*",
        HF_ENDPOINT=url,
    )  # fmt: skip
    assert said[:3] == [
        "data/a.parquet data/b.parquet data/old/c.parquet",
        "data/a.parquet data/b.parquet",
        "d.json.gz",
    ]
    assert said[3].startswith("hf://datasets/owner/set/*.csv: the data set has no such file in .parquet, .json.gz; ")
    assert said[4].startswith("hf://datasets/owner/other/*: not to be had from the Hugging Face Hub (Client error '404")
    assert said[4].endswith("one that is gated wants its terms accepted on its page, and HF_TOKEN")
    assert said[5] == "hf://owner/set/*: no files of the Hub; write hf://datasets/OWNER/NAME[@REVISION]/GLOB"
    # What is here stays here: a commit needs no Hub.
    before = len(asked)
    pinned = f"hf://datasets/owner/set@{COMMIT}/data/?.parquet"
    assert fetched(tmp_path, pinned, HF_ENDPOINT=url, HF_HUB_OFFLINE="1") == ["data/a.parquet data/b.parquet"]
    assert len(asked) == before
    (nowhere,) = fetched(tmp_path, "hf://datasets/owner/set/data/*", HF_ENDPOINT="http://127.0.0.1:9")
    assert "not to be had from the Hugging Face Hub" in nowhere
    assert "; so commit, licence and terms could not be looked up: check name, revision and network" in nowhere


def test_the_commit_that_a_work_directory_saw_first_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_pins", {})
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda self, name, revision: SimpleNamespace(sha=newest))
    source, newest = "hf://datasets/owner/set@refs%2Fpr%2F1/*.gz", COMMIT
    first = digests.PathDigests(tmp_path)
    assert first.of([source]) == [f"hf://datasets/owner/set@{COMMIT}/*.gz"]
    first.save()
    newest = "b" * 40
    places._pins.clear()  # another process
    assert digests.PathDigests(tmp_path).of(source) == f"hf://datasets/owner/set@{COMMIT}/*.gz"
    assert places.pin(source) == f"hf://datasets/owner/set@{COMMIT}/*.gz"
    places._pins.clear()
    assert digests.PathDigests(tmp_path / "other").of(source) == f"hf://datasets/owner/set@{newest}/*.gz"


# --- Object stores -------------------------------------------------------------------------------------------------


class Bucket(MemoryFileSystem):
    """What s3fs is to fsspec, in memory."""

    protocol = "s3"
    store: dict = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + str(path).removeprefix("s3://").strip("/")


def text_rules(*files):
    return Config({"texts": {"mine": {"files": files, "license": "MIT"}}})


def test_a_bucket_is_read_as_a_directory_is(monkeypatch):
    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "s3", Bucket)
    backend.fsspec_backend._get_filesystem.cache_clear()
    bucket = fsspec.filesystem("s3")
    bucket.pipe("s3://bucket/code/a.py", b"def f(x):\n    return x\n")
    bucket.pipe("s3://bucket/code/rows.jsonl", json.dumps({"content": "x = 1\n"}).encode())
    bucket.pipe("s3://bucket/code/notes.txt", b"")
    found = list(sources.list_files("s3://bucket/code"))
    assert [raw.path for raw in found] == ["a.py", "rows.jsonl#0"]
    assert [sources.Reader({}).read(raw)[0]["text"] for raw in found] == ["def f(x):\n    return x\n", "x = 1\n"]
    (line,) = from_files.check(text_rules("s3://bucket/code"), "mine")
    assert line == "texts.mine: s3://bucket/code: licence MIT, written by whoever its rows name."
    with pytest.raises(UserError, match="s3://bucket/none: no regular file"):
        list(from_files.check(text_rules("s3://bucket/none"), "mine"))
    backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("gcsfs") is not None, reason="gcsfs is installed")
def test_a_store_whose_library_is_missing_is_one_line_that_names_it():
    rules = {"sources": ("gs://b/x",), "columns": (), "opt_outs": ""}
    for look in (
        lambda: list(sources.check(Config({"collect": rules}), "python")),
        lambda: list(from_files.check(text_rules("gs://b/x"), "mine")),
        lambda: list(rows.read_rows("gs://b/x")),
    ):
        with pytest.raises(UserError, match=r"gs://b/x: cannot be read \(Please install gcsfs.*\); mend that, or get"):
            look()
