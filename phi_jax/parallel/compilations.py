"""What jax has compiled, kept in the work directory: models of one shape, and runs that go on, compile once."""

import os
import platform
from pathlib import Path

from etils import epath

from phi_jax.errors import one_line
from phi_jax.progress import note
from phi_jax.store.artifact import digest_of


def keep_compilations(workdir: epath.PathLike) -> None:
    """Has jax look in `workdir`/.jax_cache before it compiles. A cache that the user has chosen goes before it.

    Before jax first compiles. Where nothing can be written there, it says so and compiles.
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    directory = epath.Path(workdir) / ".jax_cache" / _processor()
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        note(f"{directory}: {one_line(error)}; what is compiled is not kept there")
        return
    compilation_cache.reset_cache()  # that of another work directory
    compilation_cache.set_cache_dir(os.fspath(directory))
    # All of it. jax's own 1 s leaves out most of what a small model compiles: of a training's 49 programs 31 take less
    # than 0.2 s each, together a sixth of a short one's time.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
    """A name of this kind of processor: a program that XLA compiled for another one may crash here."""
    file = Path("/proc/cpuinfo")
    about = file.read_text().splitlines() if file.exists() else [platform.processor(), platform.machine()]
    # "flags" and "model name" of x86, "Features" and "CPU part" of ARM.
    told = {line for line in about if line.startswith(("flags", "model name", "Features", "CPU ")) or ":" not in line}
    return digest_of(sorted(told))[:16]
