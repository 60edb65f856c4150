"""Configs: overrides, reads on record, and a user's mistakes in one line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from running import MICRO, ROOT

from phi_jax import config, fields, graph
from phi_jax.config import Config
from phi_jax.errors import UserError
from phi_jax.training import rules


def test_overrides_take_the_type_of_the_field():
    chosen = config.load([*MICRO, "--config.training.learning_rate=1e-4", "--config.collect.sources", "('a','b')"])
    assert chosen.training.learning_rate == 1e-4
    assert chosen.collect.sources == ["a", "b"]


def test_reads_are_recorded_where_they_happen():
    chosen = config.load(MICRO)
    assert chosen.reads == frozenset()
    section = chosen.only(("training",))
    assert section.training.steps == 24
    assert chosen.reads == {"training.steps"}
    chosen.to_dict()
    assert chosen.reads == {"training.steps"}
    with pytest.raises(KeyError):
        chosen.only(("nowhere",))
    with pytest.raises(AttributeError, match=r"config\.training\.stepz: no such field"):
        _ = chosen.training.stepz
    with pytest.raises(AttributeError):
        _ = section.model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no config given"),
        (["--config", "configs/nowhere.py"], "configs/nowhere.py: no such file"),
        (["--config", f"{ROOT}/configs/nano.py:size=huge"], "nano.py:size=huge: unknown; use one of"),
        (
            [*MICRO, "--config.training.lerning_rate=1"],
            """there is no field or key 'lerning_rate'. Did you mean "learning_rate" instead of "lerning_rate"?""",
        ),
        ([*MICRO, "--config.trainin.steps=1"], "there is no field or key 'trainin'. Did you mean"),
        ([*MICRO, "--config.training.steps=abc"], "nano.py: config.training.steps=abc: must be a whole number"),
        ([*MICRO, "--config.training.learning_rate=abc"], "config.training.learning_rate=abc: must be a number"),
        (["--config", "word.py"], "--config word.py: invalid literal for int() with base 10: 'abc'"),
        ([*MICRO, "--config.training.steps"], "a value must follow"),
        (["--config", "none.py"], "--config none.py: "),
        (["--config", "dict.py"], "has no attribute 'to_dict"),
        (["--config", "zero.py"], "--config zero.py: division by zero"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, code in {"none": "", "dict": "get_config = dict", "zero": "get_config = lambda: 1 / 0",
                       "word": "get_config = lambda: int('abc')"}.items():  # fmt: skip
        (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(UserError) as caught:
        config.load(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


@settings(max_examples=20)
@given(
    st.recursive(
        st.dictionaries(st.text("abc", min_size=1), st.integers(), min_size=1),
        lambda x: st.dictionaries(st.text("abc", min_size=1), x, min_size=1),
    )
)
def test_reading_every_field_leaves_none_unread(values):
    chosen, paths = Config(values), [path for path, _ in fields.leaves(values)]
    for path in paths:
        value = chosen
        for name in path.split("."):
            value = getattr(value, name)
    assert chosen.reads == set(paths)


def test_a_section_over_another_reads_its_own_fields_first():
    chosen = Config({"finetune": {"steps": 5}, "training": {"steps": 9, "clip_norm": 1.0, "mesh": (1, 1, 1)}})
    rules = chosen.finetune.over(chosen.training)
    assert (rules.steps, rules.clip_norm) == (5, 1.0)
    assert chosen.reads == {"finetune.steps", "training.clip_norm"}
    with pytest.raises(AttributeError, match=r"config\.training\.stepz: no such field"):
        _ = rules.stepz


# --- Every field, with values that it cannot hold, and at its edges ---------------------------------------------


def all_fields():
    """(dotted path, its value, the whole config) of every field of phi_1.py, and of those that only nano.py has."""
    phi_1 = config.load(["--config", f"{ROOT}/configs/phi_1.py"]).to_dict()
    nano = config.load(MICRO).to_dict()
    known = dict(fields.leaves(phi_1))
    grammar = {path: value for path, value in fields.leaves(nano["texts"], "texts.") if path not in known}
    return [(*field, phi_1) for field in known.items()] + [(*field, nano) for field in grammar.items()]


def with_value(values, path, value):
    section, _, rest = path.partition(".")
    return values | {section: with_value(values[section], rest, value) if rest else value}


NEVER = [float("nan"), float("inf"), -float("inf"), -1, -0.5, 10**30, 10**400, None, True, {}, {"a": 1}, "two\nlines",
         "\ud800", " ", 7, 0.5, [float("nan")], [[]], [None], [["raw"]], [["raw", float("nan")]], b"raw"]  # fmt: skip
EDGES = [0, 1, 0.0, -0.0, 1e-45, 1e39, "", "word", [], ["word"], [""], [0], [["raw", 1.0]], [["raw", float("inf")]]]
# What of NEVER some fields can hold.
CAN = {
    "True or False": [True], "a whole number": [7], "a number": [7, 0.5, 10**30],
    "a text in one line": [], "several texts, each in one line": [], "several whole numbers": [], "several pairs": [],
}  # fmt: skip


def test_no_field_takes_what_it_cannot_hold():
    for path, value, _ in all_fields():
        field = fields.field_of(path)
        assert field.problem(value) == "", path
        for wrong in NEVER:
            if not any(wrong is one for one in CAN[field.kind]):
                accepted = field.problem(wrong) == ""
                # graph.py looks into the pairs of a mixture
                assert not accepted or field.kind == "several pairs", f"{path}={wrong!r}"


def refused(chosen):
    """Why an experiment cannot be; "" where it can."""
    try:
        for stage in graph.stages(chosen):
            if stage.stage in graph.TRAININGS:
                rules.check(chosen, stage.name)
    except UserError as error:
        return str(error)
    return ""


def test_every_field_at_its_edges_is_taken_or_refused_in_one_line():
    said = set()
    for path, _, values in all_fields():
        for edge in EDGES:
            # Out of its range on its own, or together with others; all fields again would take long.
            problem = fields.field_of(path).problem(edge) or refused(Config(with_value(values, path, edge)))
            assert problem.isprintable(), f"{path}={edge!r}"
            said.add(problem)
    assert {"", "must not be empty", "must be a number"} < said


@pytest.mark.parametrize("path", ["evaluate.top_k", "training.mesh", "seed", "tokenize.learn_on"])
def test_a_field_that_is_missing_is_named(path):
    values = config.load(MICRO).to_dict()
    section, _, name = path.partition(".")
    (values[section] if name else values).pop(name or section)
    with pytest.raises(UserError, match=rf"config\.{path}: must have a value"):
        graph.stages(Config(values))
