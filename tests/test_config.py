"""Configs: overrides, reads on record, and a user's mistakes in one line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import MICRO, ROOT

from phi_jax import config
from phi_jax.config import Config
from phi_jax.errors import UserError


def test_overrides_take_the_type_of_the_field():
    chosen = config.load([*MICRO, "--config.training.learning_rate=1e-4", "--config.collect.sources", "('a','b')"])
    assert chosen.training.learning_rate == 1e-4
    assert chosen.collect.sources == ("a", "b")


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
        ([*MICRO, "--config.training.lerning_rate=1"], 'Did you mean "learning_rate"'),
        ([*MICRO, "--config.training.learning_rate=abc"], "training.learning_rate=abc: could not convert"),
        ([*MICRO, "--config.training.steps"], "a value must follow"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(UserError) as caught:
        config.load(arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


@given(
    st.recursive(
        st.dictionaries(st.text("abc", min_size=1), st.integers(), min_size=1),
        lambda x: st.dictionaries(st.text("abc", min_size=1), x, min_size=1),
    )
)
def test_reading_every_field_leaves_none_unread(values):
    chosen = Config(values)
    for path in chosen.fields():
        value = chosen
        for name in path.split("."):
            value = getattr(value, name)
    assert chosen.reads == set(chosen.fields())


def test_a_section_over_another_reads_its_own_fields_first():
    chosen = Config({"finetune": {"steps": 5}, "training": {"steps": 9, "clip_norm": 1.0, "mesh": (1, 1, 1)}})
    rules = chosen.finetune.over(chosen.training)
    assert (rules.steps, rules.clip_norm) == (5, 1.0)
    assert chosen.reads == {"finetune.steps", "training.clip_norm"}
    with pytest.raises(AttributeError, match=r"config\.training\.stepz: no such field"):
        _ = rules.stepz
