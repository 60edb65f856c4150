"""One store for many points: what points have in common is made once, and each point names it by a link.

`S/store/<stage>/<name>-<key>` holds an artifact, `S/points/<point>` is a work directory like any other, whose artifacts
are links into the store. A stage works in its point; what it leaves there is moved into the store and linked to.
"""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from etils import epath

from phi_jax.graph import split_label
from phi_jax.store import artifact
from phi_jax.store.artifact import Artifact

_KEY = 16  # hex digits of a key in a file's name


@dataclasses.dataclass(frozen=True)
class Shared:
    """The directory of a sweep."""

    directory: Path

    def point(self, name: str) -> Path:
        """The work directory of a point."""
        return self.directory / "points" / name

    def kept(self, label: str, key: str) -> Path:
        """Where an artifact lies that any point may name."""
        stage, name = split_label(label)
        return self.directory / "store" / stage / "-".join(filter(None, (name, key[:_KEY])))

    def settle(self, point: str, label: str, key: str) -> bool:
        """Moves into the store what a point holds itself, and has it name what the store holds of this key.

        Whether that is whole now. May be called again after a kill at any line; two processes may call it at once.
        """
        own, kept = Path(artifact.locate(self.point(point), *split_label(label))), self.kept(label, key)
        target = os.path.relpath(kept, own.parent)
        if own.is_symlink() and (os.readlink(own) != target or not own.exists()):
            own.unlink()
        made = None if own.is_symlink() else artifact.find(self.point(point), *split_label(label))
        if made is not None:
            _keep(own, self.kept(label, made.key))
        if Artifact.read(kept) is None:
            return False
        if not own.is_symlink():
            own.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another process has just done so
                own.symlink_to(target)
        return True

    def unused(self, keys: Mapping[str, Mapping[str, str]]) -> list[Path]:
        """What no point needs: artifacts of the store, and points. keys: point -> label -> key."""
        needed = {self.kept(label, key) for by_label in keys.values() for label, key in by_label.items()}
        needed |= {self.point(name) for name in keys}
        found = [*self.directory.glob("store/*/*"), *self.directory.glob("points/*")]
        return sorted(set(found) - needed)


def _keep(own: Path, kept: Path) -> None:
    """Moves an artifact into the store; a later one of the same key is discarded."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(own, kept)
    except OSError:  # one is there
        artifact.remove(epath.Path(own))
