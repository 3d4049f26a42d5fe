"""Settings: every value is checked when it is set."""

import dataclasses
import json
import math
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asic3d.config import PRESETS, AlignmentConfig, make_config
from asic3d.errors import ConfigError

FIELDS = {field.name: field for field in dataclasses.fields(AlignmentConfig)}
TYPES = typing.get_type_hints(AlignmentConfig)
NUMBERS = sorted(name for name, kind in TYPES.items() if kind in (int, float))


def message(**settings) -> str:
    with pytest.raises(ConfigError) as caught:
        AlignmentConfig(**settings)
    return str(caught.value)


def test_a_setting_cannot_be_changed_afterwards():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AlignmentConfig().seed = 1  # pyright: ignore[reportAttributeAccessIssue]


def test_every_setting_has_a_help_text_and_a_default_of_its_own_type():
    assert set(TYPES) == set(FIELDS)
    for name, field in FIELDS.items():
        assert len(field.metadata["help"]) > 10, name
        assert type(field.default) is TYPES[name], name


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_a_closed_range(name):
    low, high, kind = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"], TYPES[name]
    assert getattr(AlignmentConfig(**{name: kind(low)}), name) == low
    assert getattr(AlignmentConfig(**{name: kind(high)}), name) == high
    for value in (kind(math.floor(low) - 1), kind(high + 1)):
        wanted = f"The setting '{name}' must lie between {low:g} and {high:g}; {value!r} does not."
        assert message(**{name: value}) == wanted


@pytest.mark.parametrize("name", [name for name in NUMBERS if TYPES[name] is float])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(name, value):
    assert f"'{name}' must lie between" in message(**{name: value})


OTHERS = [
    (name, value)
    for name in sorted(FIELDS)
    for value in (None, [], {}, b"x", 1j, True, "text", 2.5, 3)
    if type(value) is not TYPES[name] and not (TYPES[name] is float and type(value) is int)
]


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_a_value_of_another_type_is_refused(name, value):
    wanted = f"The setting '{name}' takes a value of type {TYPES[name].__name__}, not {value!r}."
    assert message(**{name: value}) == wanted


def test_whole_numbers_become_floats_and_paths_become_texts():
    config = AlignmentConfig(bending=1, weights=Path("a") / "b.pth")  # pyright: ignore[reportArgumentType]
    assert type(config.bending) is float
    assert config.weights == str(Path("a/b.pth"))


def test_an_unknown_preset_or_setting_names_those_that_there_are():
    listed = f"choose one of: {', '.join(PRESETS)}."
    assert message(preset="best") == f"There is no preset 'best'; {listed}"
    with pytest.raises(ConfigError) as caught:
        make_config("best")
    assert str(caught.value) == f"There is no preset 'best'; {listed}"
    with pytest.raises(ConfigError) as caught:
        make_config("fast", sead="3")
    assert str(caught.value) == f"There is no setting 'sead'; the settings are: {', '.join(FIELDS)}."


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_sets_what_it_says_and_the_rest_is_the_default(preset):
    config, plain = make_config(preset), AlignmentConfig()
    for name in FIELDS:
        wanted = preset if name == "preset" else PRESETS[preset].get(name, getattr(plain, name))
        assert getattr(config, name) == wanted


@given(st.sampled_from(NUMBERS), st.data())
def test_a_number_given_as_text_is_the_number(name, data):
    low, high = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"]
    number = st.integers(int(low), int(high)) if TYPES[name] is int else st.floats(low, high)
    value = data.draw(number)
    assert getattr(make_config(**{name: str(value)}), name) == value


@pytest.mark.parametrize(("name", "text"), [("seed", "3.5"), ("seed", ""), ("bending", "stiff"), ("grid", "0x20")])
def test_a_text_that_is_no_such_number_is_refused(name, text):
    with pytest.raises(ConfigError) as caught:
        make_config(**{name: text})
    wanted = f"The setting '{name}' takes a value of type {TYPES[name].__name__}, not '{text}'."
    assert str(caught.value) == wanted


def test_settings_of_an_alignment_survive_json():
    config = make_config(seed=9, bending=0.25, backbone="efficientnet-lite0")
    assert AlignmentConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config
