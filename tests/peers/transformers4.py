"""transformers 4.57.6 in an environment of its own, as a subprocess; it cannot live beside transformers 5.

Installed beside the checkout's root (git-ignored), or where PHI_JAX_TRANSFORMERS_4 says; torch and the rest come
from the running environment, which stands behind that directory on the path.
"""

import os
from pathlib import Path

import pytest
from running import ROOT, python, server

INSTALL = "pip install --no-deps --target .transformers4 -r tests/peers/transformers4.txt"


def transformers_4_environment():
    """Variables under which Python imports transformers 4. Skips where it is not installed, with the install line."""
    directory = Path(os.environ.get("PHI_JAX_TRANSFORMERS_4") or ROOT / ".transformers4")
    if not (directory / "transformers").is_dir():
        reason = f"needs transformers 4 in {directory}: {INSTALL}"
        if os.environ.get("PHI_JAX_REQUIRE_ALL") == "1":
            pytest.fail(f"PHI_JAX_REQUIRE_ALL=1, but {reason}")
        pytest.skip(reason)
    return {
        **os.environ, "PYTHONPATH": str(directory), "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }  # fmt: skip


def transformers_server(environment):
    """A fork server that has imported torch and the transformers of an environment."""
    families = (f"transformers.models.{family}.modeling_{family}" for family in ("phi", "codegen"))
    return server(("torch", "transformers", *families), environment)


def run_transformers_4(script, *arguments):
    """What a Python script printed under transformers 4. `script` is source; `arguments` are its sys.argv[1:]."""
    environment = transformers_4_environment()
    done = python("-c", script, *arguments, env=environment, socket=transformers_server(environment))
    assert done.returncode == 0, f"under transformers 4:\n{done.stderr[-3000:]}"
    return done.stdout
