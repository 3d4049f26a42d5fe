"""Damaged and hostile run folders: nothing is believed that a file says."""

import copy
import json
import math
import shutil
import warnings
from pathlib import Path

import pytest
from small_run import RUN, TENSORS, assert_same, change_run, change_tensors, saved

from asic3d import storage
from asic3d.alignment import Alignment, load_alignment
from asic3d.errors import CollectionError, CollectionWarning, StorageError


@pytest.fixture(scope="module")
def small(toy, tmp_path_factory) -> tuple[Path, Alignment]:
    return saved(toy, tmp_path_factory.mktemp("small"))


@pytest.fixture
def folder(small, tmp_path) -> Path:
    """A copy of the small run; it finds its photos where they were."""
    shutil.copytree(small[0] / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_run_whose_tensors_were_written_anew_is_read(folder, small):
    change_tensors(folder)  # what the tests below do, without a damage
    assert_same(load_alignment(folder), small[1])


NAMES = [
    "descriptors",
    "canonical",
    "foreground",
    "valid",
    "features",
    "confidence",
    "projection",
    "mean",
    "classifier",
    "centre0",
    "mask0",
    "mask1",
]


def other_dtype(tensor):
    return tensor.int() if tensor.is_floating_point() else tensor.float()


def shorter(tensor):
    return tensor[:-1].contiguous()


def one_more_axis(tensor):
    return tensor[None]


def a_single_number(tensor):
    return tensor.flatten()[0]


def left_out(_):
    return None


def not_finite(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[3] = math.nan
    return tensor


DAMAGES = [other_dtype, shorter, one_more_axis, a_single_number, left_out, not_finite]


NOT_HARMFUL = [(other, shorter) for other in ("mask0", "mask1", "centre0")]  # of any length, for this reader
IMPOSSIBLE = [(other, not_finite) for other in ("valid", "mask0", "mask1")]  # there is no such value
HARMFUL = [(n, d) for n in NAMES for d in DAMAGES if (n, d) not in NOT_HARMFUL + IMPOSSIBLE]


@pytest.mark.parametrize(("name", "damage"), HARMFUL, ids=lambda part: getattr(part, "__name__", part))
def test_a_tensor_that_does_not_fit_is_refused(folder, name, damage):
    change_tensors(folder, **{name: damage})
    with pytest.raises(StorageError):
        load_alignment(folder)


def beyond(value):
    """The tensor with one value that is out of its range."""

    def change(tensor):
        tensor = tensor.clone()
        tensor.view(-1)[3] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("confidence", -0.01, "its 'confidence' does not lie between 0 and 1"),
        ("confidence", 1.5, "its 'confidence' does not lie between 0 and 1"),
        ("foreground", 7, "its 'foreground' does not lie between 0 and 1"),
        ("canonical", 2e4, "its 'canonical' holds coordinates beyond 1000"),
        ("canonical", -2e4, "its 'canonical' holds coordinates beyond 1000"),
        ("descriptors", 3, "its 'descriptors' are not of unit length"),
        ("features", 100, "its 'features' are not of unit length"),
    ],
)
def test_values_that_no_alignment_has_are_refused_in_a_sentence(folder, name, value, why):
    change_tensors(folder, **{name: beyond(value)})
    with pytest.raises(StorageError) as caught:
        load_alignment(folder)
    assert str(caught.value) == f"The run in '{folder}' is damaged: {why}. {storage.ALIGN_AGAIN}"


def test_an_empty_mask_is_refused(folder):
    change_tensors(folder, mask0=lambda mask: mask[:0])
    with pytest.raises(StorageError, match="does not fit together"):
        load_alignment(folder)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.999])
def test_a_truncated_tensor_file_is_refused(folder, share):
    data = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        StorageError, match=f"{TENSORS}' is damaged: it is cut off, or not a safetensors file"
    ) as caught:
        load_alignment(folder)
    assert str(caught.value).endswith(f". {storage.ALIGN_AGAIN}")


def test_a_missing_tensor_file_is_named(folder):
    (folder / TENSORS).unlink()
    with pytest.raises(StorageError) as caught:
        load_alignment(folder)
    assert str(caught.value) == f"There is no file '{folder / TENSORS}'. {storage.ALIGN_AGAIN}"


def test_a_tensor_file_of_another_run_is_not_mixed_with_this_one(folder):
    data = bytearray((folder / TENSORS).read_bytes())
    data[-1] ^= 1
    (folder / TENSORS).write_bytes(data)
    with pytest.raises(StorageError) as caught:
        load_alignment(folder)
    assert str(caught.value) == (
        f"The run in '{folder}' is damaged: 'alignment.safetensors' is not the file that was saved with it. "
        "Align the photos again with --overwrite."
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"run"', "{}", "\x00", '{"a": NaN}', "[" * 100_000])
def test_a_run_file_that_is_no_run_is_refused(folder, text):
    (folder / RUN).write_text(text)
    with pytest.raises(StorageError, match="is damaged"):
        load_alignment(folder)


@pytest.mark.parametrize("name", ["../photo_01.jpg", "/etc/passwd", "a/../../b.jpg", "..", "", ".", "\0", "a\0b.jpg"])
def test_a_photo_name_that_leads_out_of_the_folder_is_refused(folder, name):
    change_run(folder, lambda run: run["photos"][0].update(name=name))
    with pytest.raises(StorageError, match="is not that of a file in"):
        load_alignment(folder)


def test_a_mask_is_not_read_from_outside_the_run(folder, small):
    path = str(small[1].collection.photos[0].path)
    change_run(folder, lambda run: run["photos"][0].update(name="../../a.jpg", path=path, mask_given=True))
    with pytest.raises(StorageError, match="is not that of a file in"):
        load_alignment(folder)


def test_another_file_in_place_of_a_photo_is_refused(folder):
    change_run(folder, lambda run: run["photos"][0].update(path="/dev/null", name="c.jpg"))
    with pytest.warns(CollectionWarning, match="is gone"):
        assert load_alignment(folder).collection.absent == ("c.jpg",)


def test_as_many_pairs_as_the_photos_have_are_believed_and_no_more(folder):
    change_run(folder, lambda run: run.update(pairs=1))
    assert load_alignment(folder).pairs == 1
    change_run(folder, lambda run: run.update(pairs=2))
    with pytest.raises(StorageError, match="is damaged: its 'pairs' is 2"):
        load_alignment(folder)


def test_a_photo_listed_twice_is_refused(folder):
    change_run(folder, lambda run: run["photos"].__setitem__(1, run["photos"][0]))
    with pytest.raises(StorageError, match="it lists a photo twice"):
        load_alignment(folder)


VALUES = [
    None,
    True,
    -1,
    0,
    3,
    0.5,
    1e300,
    10**400,
    "",
    "text",
    "../../x",
    "/",
    "\0",
    "\ud800",
    "x" * 5000,
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    {"name": {}},
]


def places(value, before=()):
    """Every key and index inside a JSON value, from the outside in."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*before, key)
        yield from places(inner, (*before, key))


def replaced(run, place, value):
    changed = copy.deepcopy(run)
    holder = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    return changed


def read_or_refuse(folder, run) -> str:
    (folder / RUN).write_text(json.dumps(run))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CollectionWarning)  # of photos that are looked for somewhere else
            found = load_alignment(folder)
    except (StorageError, CollectionError) as error:
        assert str(error).endswith("."), str(error)
        return "refused"
    answer = found.transfer([[10, 20]], source=found.names[0], target=found.names[1])
    assert bool(answer.points.isfinite().all())
    return "read"


def test_any_value_of_any_other_kind_is_read_or_refused_in_a_sentence(folder):
    run = json.loads((folder / RUN).read_text())
    outcomes = {}
    for place in places(run):
        for number, value in enumerate(VALUES):
            outcomes[place, number] = read_or_refuse(folder, replaced(run, place, value))
    assert len(outcomes) > 1000
    for key in ("config", "photos", "grid", "taps", "tensors_sha256", "format_version", "quality", "backbone"):
        assert outcomes[(key,), VALUES.index([])] == "refused", key
    hostile = [
        (("versions",), [None, [], "text", {"name": {}}]),
        (("versions", "python"), [None, 3, [], {}]),
        (("backbone",), [None, "text", "../../x", ""]),
        (("device",), [None, "text", "../../x", ""]),
        (("config", "backbone"), [None, "text", "../../x", ""]),
        (("left_out",), [None, [], {"a": 1}]),
        (("photos", 1, "size"), [None, [], [1], "text", 3]),
        (("photos", 1, "sha256"), [None, 3, "", "text"]),
        (("photos", 1, "mask_given"), [None, 3, "text", []]),
    ]
    for place, values in hostile:
        for value in values:
            assert outcomes[place, VALUES.index(value)] == "refused", (place, value)


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_two_wrong_photo_folders_are_refused_in_a_sentence(folder, number):
    run = json.loads((folder / RUN).read_text())
    for first in ("/nowhere", "x" * 5000, "\0"):
        told = read_or_refuse(folder, {**run, "photo_folder": first, "photo_folder_from_here": VALUES[number]})
        assert told == "refused" or isinstance(VALUES[number], str)


def test_any_entry_that_is_missing_is_read_or_refused_in_a_sentence(folder):
    run = json.loads((folder / RUN).read_text())
    outcomes = {}
    for place in places(run):
        changed = copy.deepcopy(run)
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        del holder[place[-1]]
        outcomes[place] = read_or_refuse(folder, changed)
    for key in ("config", "photos", "grid", "taps", "tensors_sha256", "format_version", "quality", "backbone"):
        assert outcomes[key,] == "refused", key
    assert outcomes["config", "seed"] == "read"  # older runs lack newer settings
