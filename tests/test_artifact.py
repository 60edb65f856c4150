"""Artifacts: whole or absent, identities without time and place, local disk and object store."""

import json
import os
import shutil
import subprocess
import sys
from typing import ClassVar

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from phi_jax.errors import UserError
from phi_jax.store import artifact
from phi_jax.store.digests import PathDigests

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
)


def build(workdir, text="hello", config=None, inputs=None, name="one"):
    draft = artifact.open_draft(workdir, "collect", name, config or {"a": 1}, inputs or {})
    artifact.write_atomic(draft.directory / "x.txt", text)
    artifact.write_atomic(draft.directory / "log.txt", str(id(draft)))
    draft.add_output("text", "x.txt", rows=1)
    draft.add_output("log", "log.txt", kind="log")
    draft.add_facts(kept=1)
    return draft.commit()


def test_identity_depends_on_content_config_and_inputs_only(tmp_path):
    first = build(tmp_path / "a")
    assert build(tmp_path / "b", name="other place and name").identity == first.identity
    assert build(tmp_path / "c", text="other").identity != first.identity
    assert build(tmp_path / "d", config={"a": 2}).identity != first.identity
    assert build(tmp_path / "e", inputs={"x": first}).identity != first.identity


def test_manifest_is_whole_and_read_back(tmp_path):
    built = build(tmp_path)
    found = artifact.find(tmp_path, "collect", "one")
    assert found.manifest == built.manifest
    assert found.facts == {"kept": 1}
    assert found.path("text").read_text() == "hello"
    assert not (tmp_path / "collect" / "one.partial").exists()
    assert {"stage", "config", "inputs", "outputs", "versions", "git_revision", "seconds"} <= set(found.manifest)
    assert found.manifest["outputs"]["text"]["bytes"] == 5
    found.check(always_hash=True)


@pytest.mark.parametrize("harm", ["change", "grow", "remove"])
def test_a_file_that_was_harmed_is_named(tmp_path, harm):
    built = build(tmp_path)
    path = built.directory / "x.txt"
    if harm == "remove":
        path.unlink()
    else:
        path.write_text({"change": "hellO", "grow": "hello!"}[harm])
    for always_hash in (False, True):
        with pytest.raises(UserError, match=r"collect/one: x\.txt.*remove .* and run `phi-jax collect`"):
            built.check(always_hash=always_hash)


def test_what_has_its_size_and_time_is_told_by_its_hash_alone(tmp_path):
    built = build(tmp_path)
    path = built.directory / "x.txt"
    before = os.stat(path)
    path.write_text("hellO")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    built.check()
    with pytest.raises(UserError, match=r"x\.txt: missing, or its checksum differs"):
        built.check(always_hash=True)


def test_a_file_that_was_only_touched_is_whole(tmp_path):
    built = build(tmp_path)
    os.utime(built.directory / "x.txt", (1, 1))
    built.check()


def test_the_key_is_of_the_decision_and_the_identity_of_the_content(tmp_path):
    first, other = build(tmp_path / "a"), build(tmp_path / "b", text="other")
    assert first.key == other.key != build(tmp_path / "c", config={"a": 2}).key
    later = [build(tmp_path / str(i), inputs={"x": source}) for i, source in enumerate((first, other))]
    assert later[0].key == later[1].key
    assert later[0].identity != later[1].identity


def test_a_draft_is_kept_for_the_same_key_and_inputs_only(tmp_path):
    def opened(value, source, **kwargs):
        return artifact.open_draft(
            tmp_path / "w", "s", "n", {"a": value, "b": 0}, source, decides={"a": value}, **kwargs
        )

    first, other = ({"x": build(tmp_path / place, text=place)} for place in ("one", "two"))
    artifact.write_atomic(opened(1, first).directory / "part", "1")
    (tmp_path / "w/s/n.partial/.tmp-part2").write_text("half")
    again = opened(1, first)
    assert again.resumed
    assert (again.directory / "part").exists()
    assert not (again.directory / ".tmp-part2").exists()
    for value, source, kwargs in ((2, first, {}), (1, other, {}), (1, first, {"again": True})):
        artifact.write_atomic(opened(1, first).directory / "part", "1")
        changed = opened(value, source, **kwargs)
        assert not changed.resumed
        assert not (changed.directory / "part").exists()


def test_a_draft_with_checkpoints_is_never_removed(tmp_path):
    draft = artifact.open_draft(tmp_path, "pretrain", "n", {"training.steps": 24}, {})
    (draft.directory / "checkpoints" / "16").mkdir(parents=True)
    with pytest.raises(UserError) as refused:
        artifact.open_draft(tmp_path, "pretrain", "n", {"training.steps": 30}, {})
    for part in ("pretrain/n", "saved step 16", "training.steps 24 -> 30", "to start afresh", str(draft.directory)):
        assert part in str(refused.value)
    assert artifact.open_draft(tmp_path, "pretrain", "n", {"training.steps": 24}, {}).resumed
    assert (draft.directory / "checkpoints" / "16").exists()


def test_a_replaced_training_is_set_aside(tmp_path, capsys):
    def train(steps):
        draft = artifact.open_draft(tmp_path, "pretrain", "n", {"steps": steps}, {})
        (draft.directory / "checkpoints" / "16").mkdir(parents=True)
        artifact.write_atomic(draft.directory / "checkpoints" / "16" / "x", str(steps))
        draft.add_output("checkpoint", "checkpoints", kind="checkpoint", digest=str(steps))
        return draft.commit()

    first = train(24)
    train(30)
    aside = tmp_path / "pretrain" / f"n.replaced-{first.identity[:12]}"
    assert (aside / "checkpoints" / "16" / "x").read_text() == "24"
    assert f"pretrain/n: the training that stood there is kept in {aside}" in capsys.readouterr().err
    assert artifact.find(tmp_path, "pretrain", "n").identity != first.identity


def test_a_new_directory_appears_whole_or_not_at_all(tmp_path):
    def fill(fail):
        with artifact.new_directory(tmp_path / "out") as directory:
            (directory / "x").write_text("1")
            assert not (tmp_path / "out").exists()
            if fail:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        fill(True)
    assert list(tmp_path.iterdir()) == []
    fill(False)
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "x"]
    with pytest.raises(UserError, match="out: exists"):
        fill(False)


def test_a_new_directory_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    events, sync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append("rename"), rename(old, new)))
    with artifact.new_directory(tmp_path / "out") as directory:
        (directory / "a").mkdir()
        (directory / "a" / "x").write_text("1")
    before = events.index("rename")
    assert set(events[:before]) == {str(path) for path in (directory, directory / "a", directory / "a" / "x")}
    assert events[before + 1 :] == [str(tmp_path)]


def test_a_path_stands_for_what_it_holds(tmp_path):
    (tmp_path / "d" / "deep").mkdir(parents=True)
    (tmp_path / "d" / "deep" / "a.py").write_text("x")
    directory = str(tmp_path / "d")

    def digest():
        digests = PathDigests(tmp_path)
        found = digests.of([directory, "idioms", "", "gs://bucket/x"])
        digests.save()
        return found

    before = digest()
    assert before[1:] == ["idioms", "", "gs://bucket/x"]
    assert digest() == before
    os.utime(tmp_path / "d" / "deep" / "a.py", (1, 1))
    assert digest() == before
    (tmp_path / "d" / "deep" / "a.py").write_text("y")
    changed = digest()
    assert changed[0] != before[0]
    shutil.copytree(directory, tmp_path / "elsewhere")
    assert PathDigests(None).of(str(tmp_path / "elsewhere")) == changed[0]


def test_a_stale_artifact_stands_until_the_new_one_is_whole(tmp_path):
    old = build(tmp_path)
    artifact.open_draft(tmp_path, "collect", "one", {"a": 2}, {})
    assert artifact.find(tmp_path, "collect", "one").identity == old.identity
    new = build(tmp_path, config={"a": 2})
    assert artifact.find(tmp_path, "collect", "one").identity == new.identity
    assert sorted(p.name for p in (tmp_path / "collect").iterdir()) == ["one"]


@pytest.mark.parametrize("cut", ["before", "between", "behind"])
def test_a_swap_that_was_cut_in_two_is_finished(tmp_path, cut):
    old, new = build(tmp_path / "a"), build(tmp_path / "a", text="new", name="two")
    new.directory.rename(tmp_path / "a" / "collect" / "one.partial")
    if cut != "before":
        (old.directory / "manifest.json").unlink()
    if cut == "behind":
        old.directory.rmtree()
    found = artifact.find(tmp_path / "a", "collect", "one")
    assert found.identity == (old.identity if cut == "before" else new.identity)


def test_atomic_path_leaves_nothing_of_a_failed_write(tmp_path):
    (tmp_path / "f").write_text("old")

    def write_half():
        with artifact.atomic_path(tmp_path / "f") as path:
            path.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "old")]


def test_a_declared_output_that_was_not_written_is_a_bug(tmp_path):
    draft = artifact.open_draft(tmp_path, "s", "n", {}, {})
    draft.add_output("x", "nowhere")
    with pytest.raises(ValueError, match="declared but not written"):
        draft.commit()


@given(JSON)
def test_canonical_json_round_trips_and_ignores_order(value):
    text = artifact.canonical_json(value)
    assert json.loads(text) == value
    assert artifact.canonical_json(json.loads(text)) == text


def test_a_second_run_in_the_same_place_is_refused(tmp_path):
    (tmp_path / ".lock").write_text("collect/one")
    assert artifact.running(tmp_path) == artifact.running(tmp_path / "nowhere") == ""
    with artifact.locked(tmp_path):
        assert artifact.running(tmp_path) == "collect/one"
        code = (
            "import sys; from phi_jax.store import artifact\n"
            "try:\n with artifact.locked(sys.argv[1]): print('in')\n"
            "except Exception as e: print(e)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "another phi-jax is running there" in done.stdout


def test_a_damaged_manifest_is_one_clear_line(tmp_path):
    built = build(tmp_path)
    (built.directory / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: not a manifest .* remove"):
        artifact.find(tmp_path, "collect", "one")


@pytest.fixture
def bucket(monkeypatch):
    """gs:// served from memory by fsspec: no directories of its own, no rename of a tree."""
    import fsspec
    from etils.epath import backend
    from fsspec.implementations.memory import MemoryFileSystem

    class Bucket(MemoryFileSystem):
        protocol = "gs"
        store: ClassVar = {}
        pseudo_dirs: ClassVar = [""]

        def mv(self, *_, **__):
            raise AssertionError("an object store cannot rename")

    fs = Bucket()
    monkeypatch.setattr(fsspec, "filesystem", lambda *_, **__: fs)
    monkeypatch.setattr(backend, "_is_tf_installed", lambda: False, raising=False)
    return fs


def test_on_an_object_store_the_manifest_alone_decides(bucket):
    workdir = epath.Path("gs://bucket/w")
    assert artifact.find(workdir, "collect", "one") is None
    draft = artifact.open_draft(workdir, "collect", "one", {"a": 1}, {})
    artifact.write_atomic(draft.directory / "x.txt", "hello")
    assert draft.directory == draft.final
    assert artifact.find(workdir, "collect", "one") is None
    again = artifact.open_draft(workdir, "collect", "one", {"a": 1}, {})
    assert again.resumed
    assert (again.directory / "x.txt").read_text() == "hello"
    again.add_output("text", "x.txt")
    done = again.commit()
    found = artifact.find(workdir, "collect", "one")
    assert found.identity == done.identity
    found.check(always_hash=True)
    stale = artifact.open_draft(workdir, "collect", "one", {"a": 2}, {})
    assert not stale.resumed
    assert artifact.find(workdir, "collect", "one") is None
    assert not (stale.directory / "x.txt").exists()


def test_differences_name_what_changed_sections_that_came_and_went_included():
    old, new = {"a": {"b": 1, "c": 2}, "d": {"e": 3}, "f": 4}, {"a": {"b": 1, "c": 5}, "d": 6, "f": {"g": 7}}
    assert artifact.differences(old, new) == ["a.c 2 -> 5", 'd {"e": 3} -> 6', 'f 4 -> {"g": 7}']
    assert artifact.differences({}, {"a": "x" * 58}) == [f'a absent -> "{"x" * 58}"']
    assert artifact.differences({}, {"a": "x" * 59}) == [f'a absent -> "{"x" * 56}...']
