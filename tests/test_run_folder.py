"""The run folder: what was saved comes back bit for bit, and nothing in a file is believed."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import asic3d
from asic3d.errors import Asic3dError, CollectionError, StorageError
from asic3d.rendering import render_collection


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, "asic3d.Alignment"]:
    root = tmp_path_factory.mktemp("saved")
    render_collection(4, 3, size=(160, 120)).save(root)
    config = asic3d.make_config(backbone="efficientnet-lite0", grid=24)
    alignment = asic3d.align(asic3d.load_collection(root / "images"), config)
    alignment.save(root / "run")
    return root, alignment


@pytest.fixture
def run(saved, tmp_path) -> Path:
    """A copy of the run that a test may damage."""
    shutil.copytree(saved[0] / "run", tmp_path / "run")
    return tmp_path / "run"


def points(alignment: "asic3d.Alignment"):
    first, second = alignment.names[:2]
    return alignment.transfer([[70.0, 60.0], [90.0, 50.0], [-500.0, 9e9]], source=first, target=second)


def test_a_loaded_alignment_answers_as_the_saved_one(saved, run):
    loaded = asic3d.load_alignment(run)
    assert torch.equal(points(loaded).points, points(saved[1]).points)
    assert torch.equal(points(loaded).confidence, points(saved[1]).confidence)
    assert loaded.config == saved[1].config
    assert loaded.quality == saved[1].quality
    for name in loaded.names:
        assert np.array_equal(loaded.mask(name), saved[1].mask(name))
        assert (run / "masks" / f"{name}.png").is_file()


def test_points_beside_the_photo_are_answered_with_no_confidence(saved):
    assert points(saved[1]).confidence[2] == 0


def test_a_finished_run_is_not_replaced_unasked(saved, run):
    before = (run / "alignment.safetensors").read_bytes()
    with pytest.raises(StorageError, match="holds a finished run"):
        saved[1].save(run)
    assert (run / "alignment.safetensors").read_bytes() == before
    saved[1].save(run, overwrite=True)
    assert asic3d.load_alignment(run).names == saved[1].names


def test_a_full_disk_leaves_the_earlier_run_as_it_was(saved, run, monkeypatch):
    before = {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}
    real, calls = os.fsync, []

    def full(file: int) -> None:
        calls.append(file)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="The disk is full"):
        saved[1].save(run, overwrite=True)
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()} == before


def test_a_cut_off_or_exchanged_file_is_refused(run):
    tensors = run / "alignment.safetensors"
    content = tensors.read_bytes()
    tensors.write_bytes(content[: len(content) // 2])
    with pytest.raises(StorageError, match="is damaged"):
        asic3d.load_alignment(run)
    changed = bytearray(content)
    changed[-1] ^= 1
    tensors.write_bytes(bytes(changed))
    with pytest.raises(StorageError, match="is damaged"):
        asic3d.load_alignment(run)


def _change(run: Path, **values) -> None:
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, **values}))


def test_a_newer_format_is_refused(run):
    _change(run, format_version=999)
    with pytest.raises(StorageError, match="made by a newer asic3d"):
        asic3d.load_alignment(run)


@pytest.mark.parametrize("other", [None, 7, -1, "x", [], {}, [1], {"a": "b"}, True, 1e300])
def test_other_types_in_run_json_are_refused_in_a_sentence(run, other):
    original = (run / "run.json").read_text()
    refused = 0
    for key in json.loads(original):
        _change(run, **{key: other})
        try:
            asic3d.load_alignment(run)
        except Asic3dError as error:
            refused += 1
            assert str(error).endswith(".")
        (run / "run.json").write_text(original)
    assert refused >= 5


def test_a_photo_name_that_climbs_out_is_refused(run):
    photos = json.loads((run / "run.json").read_text())["photos"]
    photos[0]["name"] = "../../outside.jpg"
    _change(run, photos=photos)
    with pytest.raises(Asic3dError, match=r"outside\.jpg"):
        asic3d.load_alignment(run)


def test_photos_that_changed_or_went_are_named(saved, tmp_path):
    shutil.copytree(saved[0], tmp_path / "moved")
    run, name = tmp_path / "moved" / "run", saved[1].names[0]
    _change(run, photo_folder=str(tmp_path / "moved" / "images"))
    photo = tmp_path / "moved" / "images" / name
    content = photo.read_bytes()
    photo.write_bytes((photo.parent / saved[1].names[1]).read_bytes())
    with pytest.raises(CollectionError, match="has changed since this run"):
        asic3d.load_alignment(run)
    photo.unlink()
    with pytest.raises(CollectionError, match="is gone"):
        asic3d.load_alignment(run)
    photo.write_bytes(content)
    assert asic3d.load_alignment(run).names == saved[1].names


def test_an_added_photo_lands_where_a_full_fit_puts_it(saved, tmp_path):
    root, full = saved
    last = full.names[-1]
    for name in full.names[:-1]:
        shutil.copy(root / "images" / name, tmp_path / name)
    fewer = asic3d.align(asic3d.load_collection(tmp_path), full.config)
    added = fewer.add(root / "images" / last)
    assert torch.equal(added.canonical[:-1], fewer.canonical)
    inside = np.argwhere(full.mask(last) > 127)[::40, ::-1]
    by_fit = full.transfer(inside, source=last, target=full.names[0]).points
    by_adding = added.transfer(inside, source=last, target=full.names[0]).points
    assert float((by_fit - by_adding).norm(dim=1).median()) < 8  # of 160 pixels: two thirds of two cells
    with pytest.raises(CollectionError, match="already"):
        added.add(root / "images" / last)
