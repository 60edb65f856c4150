"""Artifacts: what a stage leaves behind, whole or not at all.

An artifact is a directory `W/<stage>/<name>/` with a `manifest.json` that is written last: where the manifest is, the
artifact is whole. On a local disk the stage works in `W/<stage>/<name>.partial/`, which is renamed into place; on an
object store (gs://, s3://), which cannot rename a directory, it works in place and the manifest alone decides.

The *key* says whether work has to be done: the hash of stage, the fields of the config that decide the result, and
the keys of the inputs. It is known before anything runs. The *identity* says what came out: the hash of stage, those
fields, the identities of the inputs, and the logical content. Time, host, path and git revision stay out of both.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as LocalPath
from typing import Any, Self

from etils.epath import Path, PathLike

from phi_jax.errors import UserError
from phi_jax.progress import note
from phi_jax.store.json_text import json_text
from phi_jax.store.versions import git_revision, versions

MANIFEST = "manifest.json"
FORMAT = 2
_DRAFT = "draft.json"
Json = dict[str, Any]  # an object of JSON
Fields = Mapping[str, Any]  # of a config, a draft or a manifest
_TEMPORARY = ".tmp-"
_ESCAPED = "backslashreplace"  # what UTF-8 cannot hold, as of a name that is not UTF-8, becomes \udcXX, as in JSON


def canonical_json(value: Any) -> bytes:
    """The one serialisation that is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(errors=_ESCAPED)


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of a JSON-able value in its canonical form."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_digest(path: PathLike) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_object_store(path: PathLike) -> bool:
    """True for gs://, s3:// and the like, where an object appears whole but no directory can be renamed."""
    return "://" in os.fspath(path)


@contextlib.contextmanager
def atomic_path(final: PathLike) -> Iterator[Path]:
    """Yields the path to write; the file or directory appears at `final` whole, on leaving the block, or not at all.

    Where a file is at `final`, it is replaced. An object store takes files only.
    """
    final = Path(final)
    if is_object_store(final):
        yield final
        return
    temporary = final.parent / f"{_TEMPORARY}{final.name}"
    remove(temporary)
    try:
        yield temporary
        for path in (*LocalPath(temporary).rglob("*"), temporary):
            _onto_disk(path)
        os.replace(temporary, final)
    except BaseException:
        remove(temporary)
        raise
    _onto_disk(final.parent)


def existing(path: PathLike) -> LocalPath:
    """The path, or what it would be created in; local disks only."""
    place = LocalPath(path).absolute()
    while not place.exists():
        place = place.parent
    return place


@contextlib.contextmanager
def new_directory(final: PathLike) -> Iterator[LocalPath]:
    """Yields a directory to fill; it appears at `final` as `atomic_path` says. Local disks only.

    Raises UserError where `final` exists, or cannot, since a file stands where a directory above it would.
    """
    if LocalPath(final).exists():
        raise UserError(f"{final}: exists; name a new directory, or remove that one first")
    if (above := existing(final)).is_file():
        raise UserError(f"{above}: a file, in which {final} cannot lie; name another directory")
    with atomic_path(final) as temporary:
        temporary.mkdir(parents=True)
        yield LocalPath(temporary)


def remove(path: Path) -> None:
    """Removes a file or a directory; the manifest first, so that what is left of an artifact is not taken for whole."""
    if path.is_dir():
        (path / MANIFEST).unlink(missing_ok=True)
        path.rmtree()
    else:
        path.unlink(missing_ok=True)


def _onto_disk(path: PathLike) -> None:
    """Waits until a file or a directory's entries are on a local disk, where a loss of power leaves them."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(final: PathLike, data: bytes | str) -> None:
    """Writes a whole file at once; see `atomic_path`."""
    with atomic_path(final) as path:
        path.write_bytes(data.encode(errors=_ESCAPED) if isinstance(data, str) else data)


def write_json(final: PathLike, value: Any) -> None:
    """Writes `value` as indented JSON, atomically; see `json_text`."""
    write_atomic(final, json_text(value, indent=2, ensure_ascii=False) + "\n")


def write_lines(final: PathLike, rows: Iterable[Any]) -> None:
    """Writes a line of JSON for each row, atomically; see `json_text`."""
    write_atomic(final, "".join(json_text(row) + "\n" for row in rows))


@dataclasses.dataclass(frozen=True)
class Artifact:
    """A whole artifact, read back from its manifest."""

    directory: Path
    manifest: Json

    @classmethod
    def read(cls, directory: PathLike) -> Self | None:
        """The artifact at `directory`, or None where there is no manifest.

        Raises UserError for a manifest that cannot be read.
        """
        directory = Path(directory)
        path = directory / MANIFEST
        if not path.exists():
            return None
        try:
            manifest = json.loads(path.read_text())
            if manifest["format"] != FORMAT:
                raise UserError(
                    f"{path}: format {manifest['format']}, this phi_jax reads {FORMAT}; start in a new work directory"
                )
            return cls(directory, manifest)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: not a manifest ({error}); remove {directory} to build it again") from None

    @property
    def label(self) -> str:
        """`stage/name`, as the pipeline calls it."""
        return f"{self.manifest['stage']}/{self.manifest['name']}".rstrip("/")

    @property
    def key(self) -> str:
        """Hash (hex) of what decided it; see the module."""
        return self.manifest["key"]

    @property
    def identity(self) -> str:
        """Hash (hex) of what came out; see the module."""
        return self.manifest["identity"]

    @property
    def reference(self) -> dict[str, str]:
        """How an artifact that was made of this one calls it."""
        return {"artifact": self.label, "identity": self.identity}

    @property
    def facts(self) -> Json:
        """What the stage wants a reader to know: rows kept, rows set aside with the reason, and so on."""
        return self.manifest["facts"]

    def path(self, output: str) -> Path:
        """Where the named output lies."""
        return self.directory / self.manifest["outputs"][output]["path"]

    def check(self, *, always_hash: bool = False) -> None:
        """Compares the size and the time of every file with the manifest, and the hash where only the time differs.

        Raises UserError naming the first file that differs.
        """
        for name, expected in self.manifest["files"].items():
            path = self.directory / name
            if path.exists() and path.stat().length == expected["bytes"]:
                same_time = _changed_at(path) == expected["changed_at"]
                if (same_time and not always_hash) or file_digest(path) == expected["sha256"]:
                    continue
            raise UserError(
                f"{self.label}: {name}: missing, or its checksum differs from {MANIFEST}; remove "
                f"{self.directory} and run `phi-jax {self.manifest['stage']}` to rebuild it"
            )


Inputs = Mapping[str, Artifact]  # of a stage, by the names that it has for them


@dataclasses.dataclass
class Draft:
    """An artifact in the making. The stage writes under `directory` and declares its outputs.

    Whatever is found in `directory` on opening was left by a killed run with the same key and inputs, so the stage may
    go on from it. config: what the stage may read; decides: the fields of it that decide the result.
    """

    final: Path
    directory: Path
    stage: str
    name: str
    config: Json
    inputs: dict[str, dict[str, str]]
    key: str
    decides: Json
    resumed: bool = False
    _outputs: dict[str, Json] = dataclasses.field(default_factory=dict)
    _facts: Json = dataclasses.field(default_factory=dict)
    _started: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def label(self) -> str:
        """`stage/name`, as the pipeline calls it."""
        return f"{self.stage}/{self.name}".rstrip("/")

    @property
    def workdir(self) -> Path:
        """Where the artifacts of the run lie."""
        return self.final.parent.parent if self.name else self.final.parent

    def add_output(
        self, name: str, path: str, *, kind: str = "files", digest: str | None = None, **counts: int
    ) -> None:
        """Declares the file or directory `path` (relative) as an output.

        kind: "files" (its bytes are its content), "documents" or "checkpoint" (`digest` is then the hash of the
        logical content, since two writes of the same content differ in bytes), or "log" (varies with time and
        host: listed, but no part of the identity). counts: rows=, tokens= and the like.
        """
        self._outputs[name] = {"path": path, "kind": kind, "sha256": digest, **counts}

    def add_facts(self, **facts: Any) -> None:
        """Adds JSON-able figures for the report: rows kept, rows set aside with the reason, choices made."""
        self._facts.update(facts)

    def commit(self) -> Artifact:
        """Writes the manifest and puts the artifact in its place, replacing a stale one."""
        files, found = {}, sorted(_files_below(self.directory))
        with ThreadPoolExecutor() as threads:  # phi-1's saves are 85 GB; hashlib lets other threads run
            for path, digest in zip(found, threads.map(file_digest, found), strict=True):
                relative = os.fspath(path.relative_to(self.directory))
                if relative not in (_DRAFT, MANIFEST):
                    size, changed_at = path.stat().length, _changed_at(path)
                    files[relative] = {"bytes": size, "changed_at": changed_at, "sha256": digest}
        for output in self._outputs.values():
            inside = {k: v for k, v in files.items() if LocalPath(k).is_relative_to(output["path"])}
            if not inside:
                raise ValueError(f"{self.label}: output {output['path']} was declared but not written")
            output["bytes"] = sum(v["bytes"] for v in inside.values())
            if output["sha256"] is None:
                output["sha256"] = digest_of({k: v["sha256"] for k, v in inside.items()})
        content = {n: o["sha256"] for n, o in self._outputs.items() if o["kind"] != "log"}
        made_of = {name: source["identity"] for name, source in self.inputs.items()}
        manifest = {
            "format": FORMAT,
            "stage": self.stage,
            "name": self.name,
            "key": self.key,
            "identity": digest_of([self.stage, self.decides, made_of, content]),
            "config": self.config,
            "decides": self.decides,
            "inputs": self.inputs,
            "outputs": self._outputs,
            "files": files,
            "facts": self._facts,
            "versions": versions(),
            "git_revision": git_revision(),
            "seconds": round(time.monotonic() - self._started, 3),
        }
        write_json(self.directory / MANIFEST, manifest)
        _put_into_place(self.directory, self.final)
        return Artifact(self.final, manifest)


def artifact_key(stage: str, decides: Fields, input_keys: Mapping[str, str]) -> str:
    """What decides whether a stage has to run: hash(stage, deciding fields of its config, keys of its inputs)."""
    return digest_of([stage, dict(decides), dict(input_keys)])


def open_draft(
    workdir: PathLike,
    stage: str,
    name: str,
    config: Fields,
    inputs: Inputs,
    *,
    decides: Fields | None = None,
    again: bool = False,
) -> Draft:
    """Opens the working directory of a stage, keeping what an interrupted run with the same key and inputs left.

    decides: see `Draft`; the whole config where None. again: nothing is kept. Raises UserError where a run with another
    key left checkpoints, which cost training steps: naming what differs, what would be lost and how to start afresh.
    """
    draft = join_draft(workdir, stage, name, config, inputs, decides=decides)
    about = {"format": FORMAT, "key": draft.key, "decides": draft.decides, "inputs": draft.inputs}
    about = json.loads(canonical_json(about))
    directory, left = draft.directory, read_draft(draft.directory)
    draft.resumed = left == about and not again
    if not draft.resumed and directory.exists():
        if not again:
            refuse_to_lose(draft.label, directory, drift(left, about["decides"], about["inputs"]))
        remove(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for path in _files_below(directory):
        if path.name.startswith(_TEMPORARY):
            path.unlink()
    if not draft.resumed:
        write_json(directory / _DRAFT, about)
    return draft


def join_draft(
    workdir: PathLike, stage: str, name: str, config: Fields, inputs: Inputs, *, decides: Fields | None
) -> Draft:
    """The draft that another process of this run has opened; touches no file."""
    final = locate(workdir, stage, name)
    decides = dict(config if decides is None else decides)
    return Draft(
        final=final,
        directory=final if is_object_store(final) else partial_of(final),
        stage=stage,
        name=name,
        config=dict(config),
        inputs={k: a.reference for k, a in inputs.items()},
        key=artifact_key(stage, decides, {k: a.key for k, a in inputs.items()}),
        decides=decides,
    )


def read_draft(directory: Path) -> Json:
    """What the run that works in `directory`, or was interrupted there, makes; {} where that cannot be read."""
    try:
        found = json.loads((directory / _DRAFT).read_text())
        parts = found["decides"], found["inputs"], *found["inputs"].values()
        return found if all(isinstance(part, dict) for part in parts) else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}


def last_checkpoint(directory: Path) -> int | None:
    """The last step that a training has saved below `directory`, or None."""
    names = (path.name for path in (directory / "checkpoints").glob("*"))
    return max((int(name) for name in names if name.isdigit()), default=None)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """`field old -> new` for each field that differs between two nested configs."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted(old.keys() | new.keys())
        return [line for n in names for line in differences(old.get(n), new.get(n), f"{path}.{n}".lstrip("."))]
    return [] if old == new else [f"{path} {_shown(old)} -> {_shown(new)}"]


def _shown(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    text = re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", text)  # of a digest
    return text if len(text) <= 60 else f"{text[:57]}..."


def drift(before: Fields, decides: Fields, inputs: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What differs from what a manifest or a draft says it was made of: `field old -> new`, `input label old -> new`.

    decides: as JSON has it. inputs: name -> {"artifact", "identity"}, or another word for an identity not known yet.
    """
    if "decides" not in before:
        return ["what began it is not known, or was an earlier phi_jax"]
    changed, inputs_before = differences(before["decides"], decides), before["inputs"]
    for name in sorted(inputs_before.keys() | inputs.keys()):
        old, new = inputs_before.get(name, {}), inputs.get(name, {})
        if old.get("identity") != new.get("identity"):
            one, other = (source.get("identity", "absent")[:12] for source in (old, new))
            changed.append(f"input {(new or old)['artifact']} {one} -> {other}")
    return changed


def refuse_to_lose(label: str, directory: Path, changed: Sequence[str]) -> None:
    """Raises UserError where a run with another key left checkpoints in `directory`: they cost training steps."""
    step = last_checkpoint(directory)
    if step is not None:
        raise UserError(
            f"{label}: an interrupted run saved step {step} in {directory}, and this run differs: "
            f"{'; '.join(changed)}. Undo that to go on from step {step}; to start afresh, move or remove {directory}"
        )


def locate(workdir: PathLike, stage: str, name: str) -> Path:
    """`W/<stage>/<name>`, or `W/<stage>` for a stage that has one instance without a name."""
    return Path(workdir) / stage / name


def partial_of(final: Path) -> Path:
    """Where a stage works until its artifact is whole; local disks only."""
    return final.parent / f"{final.name}.partial"


def find(workdir: PathLike, stage: str, name: str, *, settle: bool = True) -> Artifact | None:
    """The whole artifact of a stage instance, or None.

    settle: one that a kill kept from its place is put there; else it is read where it lies.
    """
    final = locate(workdir, stage, name)
    partial = partial_of(final)
    if not is_object_store(final) and not (final / MANIFEST).exists() and (partial / MANIFEST).exists():
        if not settle:
            return Artifact.read(partial)
        _put_into_place(partial, final)
    return Artifact.read(final)


@contextlib.contextmanager
def locked(workdir: PathLike) -> Iterator[None]:
    """Holds the work directory against a second run (local disks); the kernel frees it when this process dies."""
    if is_object_store(workdir):
        yield
        return
    import fcntl

    with open(LocalPath(workdir) / ".lock", "a") as file:  # what its holder has noted there stays
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--workdir {workdir}: another phi-jax is running there; wait for it, or stop it first"
            ) from None
        yield


def running(workdir: PathLike) -> str:
    """The label of the stage that another process, which holds the work directory, has begun; "" where none does."""
    try:
        with locked(workdir):
            return ""
    except OSError:  # it is not ours to hold
        return ""
    except UserError:
        return (LocalPath(workdir) / ".lock").read_text()


def _put_into_place(partial: Path, final: Path) -> None:
    """Puts a draft that is whole in its place, and the artifact that stood there out of it.

    That one is removed; a training, which cost its steps, is kept under another name. May be called again after a kill
    at any line.
    """
    if partial != final:
        if os.path.islink(final):
            os.unlink(final)  # of a sweep's point; what it names is others' too
        elif last_checkpoint(final) is None:
            remove(final)
        else:
            old = Artifact.read(final)
            aside = final.parent / f"{final.name}.replaced-{old.identity[:12] if old else time.time_ns()}"
            remove(aside)  # the same artifact
            os.rename(final, aside)
            note(f"{final.parent.name}/{final.name}: the training that stood there is kept in {aside}")
        os.rename(partial, final)
    (final / _DRAFT).unlink(missing_ok=True)


def _changed_at(path: Path) -> int:
    """Nanoseconds since 1970, as the disk says; 0 on an object store, whose objects are replaced whole."""
    return 0 if is_object_store(path) else os.stat(path).st_mtime_ns


def _files_below(directory: Path) -> list[Path]:
    return [place / name for place, _, names in directory.walk() for name in names]
