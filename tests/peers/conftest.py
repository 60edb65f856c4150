"""Reference implementations, which nothing at run time needs."""

import importlib
import os

import pytest


def require(*modules):
    """Imports peers. One that is missing skips the test with the install line, or fails it where all is required."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            reason = f"needs {name} ({error}): pip install -e '.[peers]'"
            if os.environ.get("PHI_JAX_REQUIRE_ALL") == "1":
                pytest.fail(f"PHI_JAX_REQUIRE_ALL=1, but {reason}")
            pytest.skip(reason)


@pytest.fixture(scope="session")
def transformers():
    """The module, on torch, with as many threads as the machine has cores."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    require("torch", "transformers")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    return transformers
