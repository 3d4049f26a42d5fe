"""What is too large for memory lies in files that nobody sees, and nothing else changes."""

import errno
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from asic3d import features, run_folder, scratch
from asic3d.alignment import align, load_alignment
from asic3d.collection import load_collection
from asic3d.errors import StorageError
from asic3d.scratch import Shelf, forget


@pytest.fixture
def all_large(monkeypatch):
    """Everything is too large for memory."""
    monkeypatch.setattr(scratch, "LARGE", 0)
    monkeypatch.setattr(features, "LARGE", 0)


def in_files():
    return sum(map(len, scratch._mapped))


def test_what_is_small_stays_in_memory():
    before = in_files()
    kept = scratch.scratch((3, 4))
    assert kept.shape == (3, 4)
    assert kept.dtype == torch.float32
    assert in_files() == before


def test_what_is_large_lies_in_a_file_without_a_name_and_is_gone_with_its_tensor(all_large, tmp_path):
    before = in_files()
    kept = scratch.scratch((300, 4, 5), folder=tmp_path)
    assert in_files() == before + kept.nbytes
    kept.copy_(torch.arange(kept.numel()).reshape(kept.shape))
    assert list(tmp_path.iterdir()) == []
    some = kept[7:9]
    del kept
    forget()
    assert torch.equal(some.flatten(), torch.arange(140.0, 180.0))
    del some
    assert in_files() == before


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells there")
def test_the_memory_of_files_is_given_back(tmp_path):
    script = """
import torch
from asic3d import scratch
def held():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
kept = scratch.scratch((scratch.LARGE // 4 + 1,))
kept.fill_(2.5)
full = held()
scratch.give_back()
assert full - held() > 0.9 * kept.nbytes, (full, held())
assert float(kept[::4096].sum()) == 2.5 * len(kept[::4096])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_is_said_before_anything_is_written(all_large, tmp_path, monkeypatch):
    def no_room(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", no_room, raising=False)
    with pytest.raises(StorageError, match=r"^The disk is full: '.*a temporary file.*' was not written"):
        scratch.scratch((300, 4), folder=tmp_path)


def test_where_room_can_not_be_reserved_it_is_written(all_large, tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    monkeypatch.setattr(scratch, "_SEGMENT", 1000)
    kept = scratch.scratch((700, 3), folder=tmp_path)
    assert not kept.any()
    kept.fill_(1)
    assert int(kept.sum()) == 2100


def test_a_shelf_keeps_what_it_is_given(monkeypatch):
    monkeypatch.setattr(scratch, "LARGE", 1000)
    monkeypatch.setattr(scratch, "_SEGMENT", 5000)
    before, shelf = in_files(), Shelf()
    random = np.random.default_rng(0)
    given = [random.integers(0, 256, (height, 17, 3), np.uint8) for height in (10, 20, 30, 200, 5, 0, 60)]
    kept = [shelf.put(array.copy()) for array in given]
    assert in_files() - before == 2 * 5000 + 200 * 17 * 3  # the first stays in memory; one is larger than a segment
    forget()
    for array, found in zip(given, kept, strict=True):
        assert np.array_equal(array, found)
        assert found.dtype == array.dtype
        assert not found.flags.writeable


def test_an_alignment_is_the_same_to_the_last_bit(toy, tmp_path, monkeypatch):
    config = replace(toy.config, partners=2)
    usual = align(load_collection(toy.folder / "images"), config)
    monkeypatch.setattr(scratch, "LARGE", 0)
    monkeypatch.setattr(features, "LARGE", 0)
    monkeypatch.setattr(scratch, "_SEGMENT", 2**20)
    for cache in (None, tmp_path / "cache"):
        found = align(load_collection(toy.folder / "images"), config, cache=cache)
        for name in ("descriptors", "canonical", "foreground", "valid"):
            assert torch.equal(getattr(found.space, name), getattr(usual.space, name)), name
        assert torch.equal(found.features, usual.features)
        assert torch.equal(found.confidence, usual.confidence)
        assert found.quality == usual.quality
    found.save(tmp_path / "run")
    monkeypatch.setattr(run_folder, "_PHOTOS", 2)
    again = load_alignment(tmp_path / "run")
    assert torch.equal(again.features, usual.features)
    assert all(np.array_equal(one.pixels, other.pixels) for one, other in zip(again.collection, usual.collection))
    del found, again
    assert in_files() == 0


def test_what_the_network_says_is_read_again_where_it_is_too_much(toy, monkeypatch, tmp_path):
    seen = []
    extract = features.extract_photo

    def counted(photo, backbone, cache=None, **ways):
        seen.append((photo.name, cache))
        return extract(photo, backbone, cache, **ways)

    monkeypatch.setattr(features, "extract_photo", counted)
    monkeypatch.setattr(features, "LARGE", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    align(toy.collection, replace(toy.config, turns=False))
    names = [name for name, _ in seen]
    assert names == [*toy.collection.names, *toy.collection.names]
    assert all(cache is not None and cache.is_relative_to(tmp_path) for _, cache in seen[1:])
    assert list(tmp_path.iterdir()) == []  # the folder that took it is gone
