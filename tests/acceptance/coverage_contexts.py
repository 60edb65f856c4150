"""A pytest plugin: coverage, which runs in this process already, is told which test runs (test_mutation_check.py)."""

import coverage
import pytest


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item, nextitem):
    current = coverage.Coverage.current()
    current.switch_context(item.nodeid)
    yield
    current.switch_context("")
