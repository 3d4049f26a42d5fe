"""Saving and loading: the same bits again, nothing half-written, and nothing believed that a file says."""

import dataclasses
import errno
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import POINTS, RUN, TENSORS, assert_same, at_home, change_run, content, saved

from asic3d import storage
from asic3d.alignment import Alignment, align, load_alignment
from asic3d.collection import Collection, load_collection
from asic3d.errors import CollectionError, CollectionWarning, StorageError, StorageWarning
from asic3d.run_lock import hold_run
from asic3d.storage import FORMAT_VERSION


@pytest.fixture(scope="module")
def small(toy, tmp_path_factory) -> tuple[Path, Alignment]:
    return saved(toy, tmp_path_factory.mktemp("small"))


@pytest.fixture
def folder(small, tmp_path) -> Path:
    """A copy of the small run; it finds its photos where they were."""
    shutil.copytree(small[0] / "run", tmp_path / "run")
    return tmp_path / "run"


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
        CollectionWarning, match=r"^The photos of this run are gone: none of them is in '.*/nowhere'. Put them"
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
