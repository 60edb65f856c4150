"""`phi-jax bench teacher`: what it measures, on few requests; no figure of speed is asserted."""

import argparse
import json
import sys

import pytest
from llm_server import serving

from phi_jax.bench import teacher
from phi_jax.errors import UserError

# Stands for the environment of a peer: it answers as peer_curator.py does, without asking anybody.
_PEER = """
import json, sys
request = json.load(open(sys.argv[-2]))
figures = {"replies": request["requests"], "seconds": 2.0, "cpu_seconds": 1.0, "peak_mib": 100.0}
json.dump({**figures, "versions": {"bespokelabs-curator": "0.0"}}, open(sys.argv[-1], "w"))
"""


def options_of(*words):
    parser = argparse.ArgumentParser()
    teacher.add_arguments(parser)
    return parser.parse_args(list(map(str, words)))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    directory = tmp_path_factory.mktemp("bench")
    peer = directory / "python"
    peer.write_text(f"#!{sys.executable}\n{_PEER}")
    peer.chmod(0o755)
    with serving(instant=True) as server:
        options = options_of(
            "--base-url", server.base_url, "--requests", 30, "--window", 8, "--directory", directory, "--rounds", 2,
            "--peer", "curator", "--peer-python", peer, "--out", directory / "r.json",
        )  # fmt: skip
        teacher.run(options)
    assert [path.name for path in directory.iterdir() if path.name.startswith(".bench-")] == []
    return json.loads((directory / "r.json").read_text())


def test_every_request_is_asked_and_journalled(result):
    assert [run["replies"] for run in result["ours"]] == [30, 300]
    for run in [*result["ours"], *(pair["ours"] for pair in result["rounds"])]:
        assert run["requests_per_second"] * run["seconds"] == pytest.approx(run["replies"])
        assert 10 < run["peak_mib"] < 2000


def test_memory_is_that_of_both_sizes(result):
    memory = result["memory"]
    assert memory["requests"] == [30, 300]
    assert memory["peak_mib"] == [run["peak_mib"] for run in result["ours"]]
    assert memory["grown_by"] == pytest.approx(memory["peak_mib"][1] / memory["peak_mib"][0] - 1)


def test_the_peer_takes_its_turns(result):
    assert result["peer"] == "Bespoke Curator 0.0, online, backend openai"
    assert [pair["peer"]["requests_per_second"] for pair in result["rounds"]] == [15.0, 15.0]
    assert result["ratio"]["rounds"] == [pair["ours"]["requests_per_second"] / 15.0 for pair in result["rounds"]]


def test_a_result_holds_no_path_and_no_address(result):
    assert "/" not in json.dumps([result["case"], result["memory"], result["rounds"]])
    assert "127.0.0.1" not in json.dumps(result)
    assert result["case"]["server"] == "on this machine"
    assert result["surroundings"]["versions"]["openai"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--requests", "0"), "--requests 0: must be at least 1"),
        (("--window", "0"), "--window 0: must be at least 1"),
        (("--peer", "curator"), "--peer and --peer-python go together"),
        (("--directory", "nowhere"), "--directory nowhere: no such directory"),
        (("--out", "nowhere/r.json"), "there is no directory nowhere"),
        (("--peer", "curator", "--peer-python", "/nowhere/python"), "--peer-python /nowhere/python: no such program"),
    ],
)
def test_options_without_sense_are_one_line(words, said, tmp_path):
    with pytest.raises(UserError, match=said) as raised:
        teacher.run(options_of("--base-url", "http://127.0.0.1:9/v1", "--directory", tmp_path, *words))
    assert "\n" not in str(raised.value)


def test_a_server_that_does_not_answer_gives_no_speed(tmp_path):
    with serving(refuse="model") as server, pytest.raises(UserError, match="ours: ") as raised:
        teacher.run(options_of("--base-url", server.base_url, "--directory", tmp_path, "--requests", 2))
    assert "\n" not in str(raised.value)
