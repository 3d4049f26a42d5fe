"""Settings: every value is checked when it is set."""

import dataclasses
import json
import math
import re
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

LISTED = "'asic3d align --help' lists all of them; in Python they are the fields of AlignmentConfig."


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


KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_have_a_closed_range(name):
    low, high, kind = FIELDS[name].metadata["low"], FIELDS[name].metadata["high"], TYPES[name]
    plainly = [re.search(r"between (\S+) and (\S+);", message(**{name: kind(high + 1)}))[n] for n in (1, 2)]
    assert [float(text) for text in plainly] == [low, high] and not any("e" in text for text in plainly)
    assert getattr(AlignmentConfig(**{name: kind(low)}), name) == low
    assert getattr(AlignmentConfig(**{name: kind(high)}), name) == high
    for value in (kind(math.floor(low) - 1), kind(high + 1)):
        wanted = f"The setting '{name}' must lie between {plainly[0]} and {plainly[1]}; {value!r} does not."
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


def taken(name: str) -> str:
    """What a setting takes, in words."""
    low, high = (FIELDS[name].metadata[key] for key in ("low", "high"))
    numbers = TYPES[name] in (int, float)
    return KINDS[TYPES[name]] + f" from {f'{low:.10f}'.rstrip('0').rstrip('.')} to {high:.0f}" * numbers


@pytest.mark.parametrize(("name", "value"), OTHERS)
def test_a_value_of_another_type_is_refused(name, value):
    wanted = f"The setting '{name}' takes {taken(name)}, not {value!r}."
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
    assert str(caught.value) == f"There is no setting 'sead'. Did you mean 'seed'? {LISTED}"
    with pytest.raises(ConfigError) as caught:
        make_config("fast", xyz="3")
    assert str(caught.value) == f"There is no setting 'xyz'. {LISTED}"


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
    wanted = f"The setting '{name}' takes {taken(name)}, not '{text}'."
    assert str(caught.value) == wanted


def test_settings_of_an_alignment_survive_json():
    config = make_config(seed=9, bending=0.25, backbone="efficientnet-lite0")
    assert AlignmentConfig(**json.loads(json.dumps(dataclasses.asdict(config)))) == config


# --- a file of settings


def settings_file(folder: Path, text: str | bytes) -> Path:
    path = folder / "settings.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_file_wins_over_the_preset_and_arguments_over_the_file(tmp_path):
    path = settings_file(tmp_path, 'preset = "paper"\nsteps = 300\nwarp_scale = 1\ncompile = true\n')
    config = make_config(file=path, steps="20")
    assert config == make_config("paper", steps=20, warp_scale=1.0, compile=True)
    assert make_config("fast", file=path) == make_config("fast", steps=300, warp_scale=1.0, compile=True)
    assert make_config(file=str(path)).steps == 300


def test_a_files_preset_gives_way_to_what_the_file_says_itself(tmp_path):
    assert make_config(file=settings_file(tmp_path, 'grid = 16\npreset = "paper"\n')).grid == 16


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead = 3", f"In '{{}}': There is no setting 'sead'. Did you mean 'seed'? {LISTED}"),
        ("[steps]\nn = 1", "'{}' has a table, [steps]: settings stand in none. Write one 'name = value' on each line."),
        ("steps = 1.5", "In '{}': The setting 'steps' takes a whole number from 1 to 10000000, not 1.5."),
        ('steps = "3"', "In '{}': The setting 'steps' takes a whole number from 1 to 10000000, not '3'."),
        ("steps = true", "In '{}': The setting 'steps' takes a whole number from 1 to 10000000, not True."),
        ("compile = 1", "In '{}': The setting 'compile' takes true or false, not 1."),
        ("steps = 0", "In '{}': The setting 'steps' must lie between 1 and 10000000; 0 does not."),
        ("warp_scale = nan", "In '{}': The setting 'warp_scale' must lie between 0 and 2; nan does not."),
        (
            "seed = 07:32:00",
            "In '{}': The setting 'seed' takes a whole number from 0 to 2147483647, not datetime.time(7, 32).",
        ),
        ('preset = "best"', "In '{}': There is no preset 'best'; choose one of: fast, paper."),
        (
            'precision = "half"',
            "In '{}': The setting 'precision' must be one of: auto, float32, bfloat16; 'half' is not.",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_the_file(tmp_path, text, message):
    path = settings_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        make_config(file=path)
    assert str(caught.value) == message.format(path)


@pytest.mark.parametrize(
    "text", ["steps", "steps = ", "= 3", "a = 1\na = 1", b"\xff\xfe", b"\x00", "x = " + "[" * 5000]
)
def test_a_file_that_is_no_toml(tmp_path, text):
    path = settings_file(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        make_config(file=path)
    assert str(caught.value).startswith(f"'{path}' is not valid TOML (")
    assert str(caught.value).endswith("). Write one 'name = value' on each line.")
    assert "codec" not in str(caught.value) and "byte" not in str(caught.value)


def test_a_file_that_is_not_there_or_a_folder(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError) as caught:
            make_config(file=path)
        assert str(caught.value).startswith(f"The settings '{path}' can't be read (")


def test_a_text_out_of_a_choice_is_refused():
    assert message(mapping="net") == "The setting 'mapping' must be one of: spline, network; 'net' is not."


def test_the_papers_preset_has_the_papers_numbers():
    config = make_config("paper")
    told = {name: getattr(config, name) for name in FIELDS if name.startswith("weight_")}
    assert told == {
        "weight_contrastive": 30.0,
        "weight_smoothness": 15000.0,
        "weight_parts": 10.0,
        "weight_equivariance": 1.0,
        "weight_reconstruction": 1.0,
        "weight_mask": 0.1,
    }
    assert (config.steps, config.batch, config.learning_rate) == (20000, 20, 0.003)
    assert (config.restart_period, config.restart_decay) == (10000, 0.9)
    assert (config.working_size, config.grid_resolution, config.network_width) == (256, 256, 0.5)
    assert (config.backbone, config.stride, config.mapping, config.parts) == ("dino-vits8", 2, "network", 4)


def test_a_backbone_is_asked_only_for_what_is_set():
    assert make_config("fast").backbone_options == {}
    assert make_config("paper").backbone_options == {"stride": 2, "side": 256}


def test_a_configuration_shows_what_is_not_as_usual():
    assert repr(AlignmentConfig()) == "AlignmentConfig()"
    assert repr(AlignmentConfig(seed=3, flips=False)) == "AlignmentConfig(seed=3, flips=False)"
