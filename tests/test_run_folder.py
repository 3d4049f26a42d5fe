"""Saving and loading: the same bits again, nothing half-written, and nothing believed that a file says."""

import copy
import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from asic3d import storage
from asic3d.alignment import Alignment, align, load_alignment
from asic3d.collection import Collection, load_collection
from asic3d.errors import CollectionError, CollectionWarning, StorageError, StorageWarning
from asic3d.run_lock import hold_run
from asic3d.storage import FORMAT_VERSION, safetensors_bytes

RUN, TENSORS = "run.json", "alignment.safetensors"
POINTS = [[100, 80], [60.5, 70.25], [-50, 1000]]


@pytest.fixture(scope="module")
def small(toy, tmp_path_factory) -> tuple[Path, Alignment]:
    """A small run of two photos, saved, with its photos beside it: ``photos`` and ``run`` in one folder."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "photos" / "left side").mkdir(parents=True)
    shutil.copy(toy.folder / "images" / "photo_01.jpg", folder / "photos" / "Übersicht 鳥.jpg")
    shutil.copy(toy.folder / "images" / "photo_02.jpg", folder / "photos" / "left side" / "b.jpg")
    config = dataclasses.replace(toy.config, grid=10, channels=16, coarse_channels=16, metric_channels=8)
    alignment = align(load_collection(folder / "photos"), config, cache=toy.cache)
    alignment.save(folder / "run")
    return folder, alignment


@pytest.fixture
def folder(small, tmp_path) -> Path:
    """A copy of the small run, to be damaged; it finds its photos where they were."""
    shutil.copytree(small[0] / "run", tmp_path / "run")
    return tmp_path / "run"


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same(one: Alignment, other: Alignment) -> None:
    """Everything that either holds, and what it answers, to the last bit."""
    for part in (lambda a: a, lambda a: a.space, lambda a: a.placing):
        for item in dataclasses.fields(part(one)):
            left, right = getattr(part(one), item.name), getattr(part(other), item.name)
            if isinstance(left, torch.Tensor):
                assert torch.equal(left, right), item.name
            elif item.name in ("masks", "centres"):
                assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True)), item.name
            elif item.name not in ("collection", "space", "placing", "origin"):
                assert left == right, item.name
    for source in one.names:
        for target in one.names:
            for name in ("transfer", "nearest_neighbour"):
                left, right = (getattr(a, name)(POINTS, source=source, target=target) for a in (one, other))
                assert torch.equal(left.points, right.points)
                assert torch.equal(left.confidence, right.confidence)
                assert torch.equal(left.cycle_error, right.cycle_error)
        assert np.array_equal(one.mask(source), other.mask(source))


# --- the round trip


def test_what_is_saved_is_loaded_to_the_last_bit(toy, tmp_path):
    toy.alignment.save(tmp_path / "run")
    found = load_alignment(tmp_path / "run")
    assert_same(found, toy.alignment)
    assert found.names == toy.alignment.names
    assert found.sizes == toy.alignment.sizes
    one, other = (a.dense(*a.names[:2]) for a in (found, toy.alignment))
    assert torch.equal(one.points, other.points)


def test_the_files_of_a_run(toy, small):
    folder, alignment = small
    assert alignment.names == ("left side/b.jpg", "Übersicht 鳥.jpg")
    assert sorted(content(folder / "run")) == sorted(
        [".asic3d", TENSORS, "masks/left side/b.jpg.png", "masks/Übersicht 鳥.jpg.png", RUN]
    )
    for name, (width, height) in zip(alignment.names, alignment.sizes, strict=True):
        with Image.open(folder / "run" / "masks" / f"{name}.png") as image:
            assert image.mode == "L"
            assert image.size == (width, height)
            np.testing.assert_array_equal(np.asarray(image), alignment.mask(name))


def test_saving_what_was_loaded_gives_the_same_files(small, tmp_path):
    load_alignment(small[0] / "run").save(tmp_path / "again")
    one, other = content(small[0] / "run"), content(tmp_path / "again")
    for files in (one, other):
        facts = json.loads(files.pop(RUN))
        facts.pop("photo_folder_from_here")
        files["facts"] = json.dumps(facts, sort_keys=True).encode()
    assert one == other


def test_given_masks_come_back_with_a_run(toy, tmp_path):
    masked = load_collection(toy.folder / "images", masks=toy.folder / "masks")
    masked = Collection(masked.root, masked.photos[:2])
    alignment = align(masked, toy.config, cache=toy.cache)
    alignment.save(tmp_path / "run")
    found = load_alignment(tmp_path / "run")
    assert_same(found, alignment)
    for one, other in zip(found.collection.photos, masked.photos, strict=True):
        assert np.array_equal(one.mask, other.mask)


def test_duplicates_left_out_photos_and_warnings_come_back(small, tmp_path):
    _, alignment = small
    old = alignment.collection
    photos = (old.photos[0], dataclasses.replace(old.photos[1], duplicate_of=old.names[0]))
    collection = Collection(old.root, photos, {"broken ü.jpg": "it is cut off"}, ("Something is odd.",))
    odd = dataclasses.replace(alignment, collection=collection, warnings=("Look at this.",))
    odd.save(tmp_path / "run")
    found = load_alignment(tmp_path / "run")
    assert found.collection.left_out == collection.left_out
    assert found.collection.warnings == collection.warnings
    assert [photo.duplicate_of for photo in found.collection] == [None, old.names[0]]
    assert found.warnings == ("Look at this.",)


def test_a_run_moved_together_with_its_photos_is_read(small, tmp_path):
    shutil.copytree(small[0], tmp_path / "moved")
    run = tmp_path / "moved" / "run" / RUN
    facts = json.loads(run.read_text())
    facts["photo_folder"] = str(tmp_path / "where it was")
    run.write_text(json.dumps(facts))
    found = load_alignment(tmp_path / "moved" / "run")
    assert found.collection.root == tmp_path / "moved" / "photos"
    assert_same(found, small[1])


def test_photos_that_are_links_are_read(small, tmp_path):
    alignment = small[1]
    (tmp_path / "photos").mkdir()
    photos = []
    for photo in alignment.collection.photos:
        link = tmp_path / "photos" / Path(photo.name).name
        link.symlink_to(photo.path)
        photos.append(dataclasses.replace(photo, name=link.name, path=link))
    linked = dataclasses.replace(alignment, collection=Collection(tmp_path / "photos", tuple(photos)))
    linked.save(tmp_path / "run")
    assert load_alignment(tmp_path / "run").names == linked.names


# --- overwriting


def test_a_finished_run_is_replaced_only_when_asked(small, folder):
    before = content(folder)
    with pytest.raises(StorageError) as caught:
        small[1].save(folder)
    assert str(caught.value) == (
        f"'{folder}' holds a finished run. Replace it with --overwrite (overwrite=True in Python), or choose another "
        "folder with -o."
    )
    assert content(folder) == before
    changed = dataclasses.replace(small[1], warnings=("new",))
    changed.save(folder, overwrite=True)
    assert load_alignment(folder).warnings == ("new",)


def test_masks_of_photos_that_are_no_longer_there_are_deleted_and_other_files_are_kept(small, folder):
    (folder / "report.html").write_text("mine")
    (folder / "masks" / "note.txt").write_text("mine")
    old = small[1].collection
    photos = (old.photos[0], dataclasses.replace(old.photos[1], name="renamed.jpg"))
    dataclasses.replace(small[1], collection=Collection(old.root, photos)).save(folder, overwrite=True)
    assert sorted(content(folder)) == sorted(
        [".asic3d", TENSORS, "masks/left side/b.jpg.png", "masks/renamed.jpg.png", "masks/note.txt", "report.html", RUN]
    )
    assert (folder / "report.html").read_text() == "mine"


MADE = ["colmap/database.db", "edits/star/a.jpg.png", "explorer.html", "figures/a.jpg", "report.html"]


def test_what_was_made_from_a_run_that_is_replaced_is_set_aside(small, folder):
    for number in (1, 2):
        for name in MADE:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"{name} {number}")
        (folder / "mine.txt").write_text("mine")
        other = dataclasses.replace(small[1], confidence=small[1].confidence / (1 + number))
        with pytest.warns(StorageWarning) as warned:
            other.save(folder, overwrite=True, others={"figures/b.jpg": b"new", "report.html": b"new"})
        assert [str(one.message) for one in warned] == [
            "Made from the alignment that was replaced, not from this one: 'edits', 'colmap', 'explorer.html'. "
            f"They are in '{folder / 'earlier' / str(number)}' now."
        ]
        found = content(folder)
        for name in MADE[:3]:
            assert name not in found
            assert found[f"earlier/{number}/{name}"].decode() == f"{name} {number}"
        assert (found["report.html"], found["figures/b.jpg"], found["mine.txt"]) == (b"new", b"new", b"mine")
    with pytest.warns(StorageWarning, match="'report.html', 'figures'"):
        small[1].save(folder, overwrite=True)  # from Python no report comes with it


def test_what_was_made_stays_where_the_run_stays_the_same_or_grows(small, folder):
    (folder / "edits").mkdir()
    small[1].save(folder, overwrite=True)  # to the last bit what was there
    loaded = load_alignment(folder)
    dataclasses.replace(loaded, confidence=loaded.confidence / 2).save(folder, overwrite=True)
    assert (folder / "edits").is_dir() and not (folder / "earlier").exists()


def test_what_belongs_to_the_run_besides_is_written_with_it(small, tmp_path, monkeypatch):
    renamed = []

    def replace(self, target, really=Path.replace):
        renamed.append(Path(target).relative_to(tmp_path / "run").as_posix())
        return really(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    small[1].save(tmp_path / "run", others={"figures/a.jpg": b"picture", "report.html": b"page"})
    assert renamed[-1] == RUN
    assert {"figures/a.jpg", "report.html"} < set(renamed)
    assert (tmp_path / "run" / "figures" / "a.jpg").read_bytes() == b"picture"
    with pytest.raises(StorageError, match="not that of a file in"):
        small[1].save(tmp_path / "run", overwrite=True, others={"../report.html": b"page"})
    assert not (tmp_path / "report.html").exists()


def test_a_run_that_somebody_else_changed_since_is_not_written_over(small, folder):
    mine, theirs = load_alignment(folder), load_alignment(folder)
    changed = dataclasses.replace(theirs, confidence=theirs.confidence / 2)
    changed.save(folder, overwrite=True)
    before = content(folder)
    with pytest.raises(StorageError) as caught:
        dataclasses.replace(mine, warnings=("mine",)).save(folder, overwrite=True)
    assert str(caught.value) == (
        f"The run in '{folder}' was changed by somebody else since it was loaded: nothing was written. Load it again "
        "and repeat what you did."
    )
    assert content(folder) == before
    dataclasses.replace(changed, warnings=("twice",)).save(folder, overwrite=True)  # one's own changes are known
    assert load_alignment(folder).warnings == ("twice",)
    mine.save(folder.parent / "elsewhere")


def test_a_folder_of_other_people_is_not_written_to(small, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(StorageError, match=r"holds other files, such as 'thesis\.tex'"):
            small[1].save(tmp_path, overwrite=overwrite)
    assert list(content(tmp_path)) == ["thesis.tex"]


def test_a_run_that_cannot_be_read_may_be_overwritten(small, folder):
    (folder / RUN).write_text("{")
    small[1].save(folder, overwrite=True)
    assert_same(load_alignment(folder), small[1])


def test_a_hostile_old_run_makes_overwriting_delete_nothing_outside(small, folder, tmp_path):
    victim = tmp_path / "victim.jpg.png"
    victim.write_text("keep me")
    change_run(folder, lambda run: run["photos"][0].update(name="../../victim.jpg"))
    small[1].save(folder, overwrite=True)
    assert victim.read_text() == "keep me"
    assert_same(load_alignment(folder), small[1])


def test_a_link_in_the_run_folder_does_not_lead_masks_elsewhere(small, folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(folder / "masks")
    (folder / "masks").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(StorageError, match="leads out of"):
        small[1].save(folder, overwrite=True)
    assert not content(elsewhere)


def test_a_place_that_cannot_be_written_is_named(small, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError, match=r"file' is a file\.|can't be written"):
            small[1].save(folder)
    monkeypatch.setattr(Path, "mkdir", full_after(0, Path.mkdir, errno.EROFS))  # permissions do not stop a superuser
    with pytest.raises(StorageError, match=r"run' can't be written \(Read-only file system\)"):
        small[1].save(tmp_path / "run")
    assert list(content(tmp_path)) == ["file"]


# --- a full disk: each write, of the marker and of the files, may be the one that fails


def full_after(count, function, number=errno.ENOSPC):
    """The function, which fails after ``count`` calls, because the disk is full or for another reason."""
    calls = [0]

    def call(*values, **options):
        calls[0] += 1
        if calls[0] > count:
            raise OSError(number, os.strerror(number))
        return function(*values, **options)

    return call


@pytest.mark.parametrize("count", range(6))  # the marker, twice, two masks, the tensors, run.json
def test_a_full_disk_leaves_the_earlier_run_as_it_was(small, folder, monkeypatch, count):
    before = content(folder)
    changed = dataclasses.replace(small[1], warnings=("new",), confidence=small[1].confidence / 2)
    with monkeypatch.context() as patch:
        patch.setattr(storage.os, "fsync", full_after(count, os.fsync))
        with pytest.raises(StorageError, match=r"^The disk is full: '.*' was not written, and what was there before"):
            changed.save(folder, overwrite=True)
    assert content(folder) == before
    assert_same(load_alignment(folder), small[1])
    changed.save(folder, overwrite=True)
    assert load_alignment(folder).warnings == ("new",)


@pytest.mark.parametrize("count", range(6))
def test_a_full_disk_leaves_no_half_run(small, tmp_path, monkeypatch, count):
    folder = tmp_path / "run"
    monkeypatch.setattr(storage.os, "fsync", full_after(count, os.fsync))
    with pytest.raises(StorageError, match=r"^The disk is full"):
        small[1].save(folder)
    assert list(content(folder)) == [".asic3d"] * (count > 0)
    with pytest.raises(StorageError):
        load_alignment(folder)


# --- what is not a run


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(StorageError) as caught:
        load_alignment(tmp_path)
    assert str(caught.value) == (
        f"'{tmp_path}' is no run folder: it holds no run.json. Make one with 'asic3d align PHOTOS'."
    )


def test_a_run_that_did_not_finish(folder):
    (folder / RUN).unlink()
    with pytest.raises(StorageError) as caught:
        load_alignment(folder)
    wanted = (
        f"The run in '{folder}' did not finish. Go on with it, PHOTOS being its photo folder: "
        f"asic3d align PHOTOS -o {folder} --resume"
    )
    assert str(caught.value) == wanted


def test_a_run_of_a_newer_version(folder):
    change_run(folder, lambda run: run.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(StorageError) as caught:
        load_alignment(folder)
    assert str(caught.value) == (
        f"'{folder / RUN}' was made by a newer asic3d (format {FORMAT_VERSION + 1}; this one reads up to "
        f"{FORMAT_VERSION}). Update asic3d as you installed it."
    )


# --- photos that changed


def test_a_photo_that_is_gone(small, tmp_path):
    shutil.copytree(small[0], tmp_path / "moved")
    at_home(tmp_path / "moved" / "run", tmp_path / "moved" / "photos")
    gone = tmp_path / "moved" / "photos" / "left side" / "b.jpg"
    gone.unlink()
    told = (
        f"The photo 'left side/b.jpg' of this run is gone: there is no file '{gone}'. Put it back, or say with "
        "--photos DIR (photos=DIR in Python) where the photos are now."
    )
    with pytest.warns(CollectionWarning) as warned:
        found = load_alignment(tmp_path / "moved" / "run")
    assert [str(one.message) for one in warned] == [f"{told} Until then what needs its pixels is left out."]
    assert found.collection.absent == ("left side/b.jpg",)
    for source, target in (found.names, found.names[::-1]):  # points need no pixels
        one, other = (a.transfer(POINTS, source=source, target=target) for a in (found, small[1]))
        assert torch.equal(one.points, other.points) and torch.equal(one.cycle_error, other.cycle_error)
    assert np.array_equal(found.mask("Übersicht 鳥.jpg"), small[1].mask("Übersicht 鳥.jpg"))
    needs_it = (
        lambda: found.mask("left side/b.jpg"),
        lambda: found.collection["left side/b.jpg"].read(),
        lambda: found.save(tmp_path / "again"),
        lambda: found.add(found.collection[1].path),
        lambda: found.canonical_grid,
        lambda: found.present,  # one photo is no alignment
    )
    for what in needs_it:
        with pytest.raises(CollectionError) as caught:
            what()
        assert str(caught.value) == told
    assert not (tmp_path / "again" / RUN).exists()


def test_photos_whose_folder_was_moved_are_found_where_one_says(small, tmp_path):
    shutil.copytree(small[0] / "run", tmp_path / "run")
    at_home(tmp_path / "run", tmp_path / "nowhere")
    change_run(tmp_path / "run", lambda run: run.update(photo_folder_from_here="nowhere"))
    with pytest.warns(
        CollectionWarning, match=r"^The photos of this run are gone: they were in '.*/nowhere'. Put them"
    ):
        assert len(load_alignment(tmp_path / "run").collection.absent) == 2
    found = load_alignment(tmp_path / "run", photos=small[0] / "photos")
    assert_same(found, small[1])
    found.save(tmp_path / "run", overwrite=True)  # from now on they are looked for there
    assert_same(load_alignment(tmp_path / "run"), small[1])
    with pytest.raises(CollectionError) as caught:
        load_alignment(tmp_path / "run", photos=tmp_path / "void")
    assert str(caught.value) == (
        f"There is no folder '{tmp_path / 'void'}'. Give the folder that holds the photos of the run."
    )


def test_a_photo_that_was_added_from_elsewhere_is_found_among_the_others(folder):
    change_run(folder, lambda run: run["photos"][0].update(path="/nowhere/b.jpg"))
    assert load_alignment(folder).collection.absent == ()


def test_an_alignment_without_the_photo_that_is_gone(toy, tmp_path):
    toy.alignment.save(tmp_path / "run")
    shutil.copytree(toy.folder / "images", tmp_path / "photos")
    (tmp_path / "photos" / "photo_03.jpg").unlink()
    with pytest.warns(CollectionWarning):
        found = load_alignment(tmp_path / "run", photos=tmp_path / "photos")
    rest = found.present
    assert rest.names == tuple(name for name in toy.alignment.names if name != "photo_03.jpg")
    one, other = (a.dense(rest.names[0], rest.names[3]) for a in (rest, toy.alignment))
    assert torch.equal(one.points, other.points)
    assert np.array_equal(rest.mask(rest.names[3]), toy.alignment.mask(rest.names[3]))
    assert toy.alignment.present is toy.alignment


@pytest.mark.parametrize("how", ["other picture", "other bytes"])
def test_a_photo_that_changed(small, tmp_path, how):
    shutil.copytree(small[0], tmp_path / "moved")
    at_home(tmp_path / "moved" / "run", tmp_path / "moved" / "photos")
    photo = tmp_path / "moved" / "photos" / "left side" / "b.jpg"
    if how == "other picture":
        Image.new("RGB", (50, 40), "red").save(photo)
    else:
        photo.write_bytes(photo.read_bytes() + b"\0")
    with pytest.raises(CollectionError) as caught:
        load_alignment(tmp_path / "moved" / "run")
    wanted = "The photo 'left side/b.jpg' has changed since this run; align again with --overwrite."
    assert str(caught.value) == wanted


def test_a_size_that_is_not_the_photos_is_refused(folder):
    change_run(folder, lambda run: run["photos"][1].update(size=[64, 48]))
    with pytest.raises(CollectionError, match="has changed since this run"):
        load_alignment(folder)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"evil": 1}, "it has a setting 'evil', and there is none of that name. Align"),
        (
            {"grid": "x"},
            "its settings can't be used (The setting 'grid' takes a whole number from 8 to 256, not 'x'). ",
        ),
        ({"backbone": "evil"}, "its backbone 'evil' is not known here; known are: "),
    ],
)
def test_settings_that_do_not_exist_are_one_sentence(folder, change, why):
    change_run(folder, lambda run: run["config"].update(change))
    with pytest.raises(StorageError) as caught:
        load_alignment(folder)
    assert str(caught.value).startswith(f"The run in '{folder}' is damaged: {why}")
    assert "__init__" not in str(caught.value)


def test_a_photo_that_is_no_photo_any_more(small, tmp_path):
    shutil.copytree(small[0], tmp_path / "moved")
    at_home(tmp_path / "moved" / "run", tmp_path / "moved" / "photos")
    (tmp_path / "moved" / "photos" / "left side" / "b.jpg").write_text("hello")
    with pytest.raises(CollectionError, match=r"b\.jpg"):
        load_alignment(tmp_path / "moved" / "run")


def at_home(folder, photos):
    change_run(folder, lambda run: run.update(photo_folder=str(photos)))


# --- damaged and hostile files


def change_run(folder: Path, change) -> None:
    run = json.loads((folder / RUN).read_text())
    change(run)
    (folder / RUN).write_text(json.dumps(run))


def change_tensors(folder: Path, **changes) -> None:
    """Replaces tensors (None: leaves them out), and makes run.json agree with the new file."""
    from safetensors.torch import load

    tensors = load((folder / TENSORS).read_bytes())
    tensors = {name: changes[name](tensors[name]) if name in changes else tensors[name] for name in tensors}
    data = safetensors_bytes({name: tensor for name, tensor in tensors.items() if tensor is not None})
    (folder / TENSORS).write_bytes(data)
    change_run(folder, lambda run: run.update(tensors_sha256=hashlib.sha256(data).hexdigest()))


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


# --- two at once


def test_what_somebody_else_saved_meanwhile_is_not_lost(small, folder):
    one, other = load_alignment(folder), load_alignment(folder)
    other = dataclasses.replace(other, confidence=other.confidence / 2)
    other.save(folder, overwrite=True)
    before = content(folder)
    with pytest.raises(StorageError) as caught:
        one.save(folder, overwrite=True)
    assert str(caught.value) == (
        f"The run in '{folder}' was changed by somebody else since it was loaded: nothing was written. Load it again "
        "and repeat what you did."
    )
    assert content(folder) == before
    one.save(folder.parent / "elsewhere")  # where nothing can be lost
    other.save(folder, overwrite=True)  # one's own changes are known
    dataclasses.replace(other, confidence=other.confidence / 2).save(folder, overwrite=True)


def test_a_run_that_is_held_is_not_saved_over(small, folder):
    before, refused = content(folder), []

    def save():
        with pytest.raises(StorageError, match=r"^Another asic3d is writing to '") as caught:
            small[1].save(folder, overwrite=True)
        refused.append(caught.value)

    with hold_run(folder):
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()
        assert len(refused) == 1
    assert content(folder) == before


def test_other_files_come_with_a_run_or_not_at_all(small, tmp_path):
    small[1].save(tmp_path / "run", others={"report.html": b"page", "figures/a.jpg": b"picture"})
    assert (tmp_path / "run" / "report.html").read_bytes() == b"page"
    assert (tmp_path / "run" / "figures" / "a.jpg").read_bytes() == b"picture"
    with pytest.raises(StorageError):
        small[1].save(tmp_path / "other", others={"../outside": b"x"})
    assert not (tmp_path / "outside").exists() and not (tmp_path / "other" / "run.json").exists()
