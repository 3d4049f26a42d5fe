import errno
import json
import os
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asic3d import reading, storage
from asic3d.errors import StorageError
from asic3d.storage import (
    FORMAT_VERSION,
    MARKER,
    atomic_write,
    inside,
    is_run_folder,
    prepare_output,
    read_json,
    read_run,
    read_safetensors,
    sha256_of,
    write_json,
    write_safetensors,
)

EXPECTED = {"canonical": (torch.float32, ("N", 4, 4, 2)), "foreground": (torch.float32, ("N", None, 4))}


def tensors(count=3):
    return {"canonical": torch.rand(count, 4, 4, 2), "foreground": torch.rand(count, 4, 4)}


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def fail_with(number: int):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    return fail


# --- atomic writes


def test_atomic_write_makes_folders_and_replaces(tmp_path):
    path = tmp_path / "a" / "b.bin"
    atomic_write(path, lambda file: file.write(b"old"))
    atomic_write(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert files_in(tmp_path) == ["a", "b.bin"]


def half_then_full(file):
    file.write(b"half of it")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("where", ["while writing", "when flushed to the disk"])
def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where):
    path = tmp_path / "run.json"
    path.write_bytes(b"old")
    if where == "when flushed to the disk":
        monkeypatch.setattr(storage.os, "fsync", fail_with(errno.ENOSPC))
    write = half_then_full if where == "while writing" else lambda file: file.write(b"new")
    with pytest.raises(StorageError) as caught:
        atomic_write(path, write)
    assert str(caught.value) == (
        f"The disk is full: '{path}' was not written, and what was there before is unchanged. "
        "Free some space and run it again."
    )
    assert path.read_bytes() == b"old"
    assert files_in(tmp_path) == ["run.json"]


def test_full_disk_while_saving_tensors(tmp_path, monkeypatch):
    path = tmp_path / "alignment.safetensors"
    before = tensors()
    write_safetensors(path, before)
    monkeypatch.setattr(storage.os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(StorageError, match="The disk is full"):
        write_safetensors(path, tensors())
    assert torch.equal(read_safetensors(path, EXPECTED)["canonical"], before["canonical"])
    assert files_in(tmp_path) == ["alignment.safetensors"]


def test_read_only_place(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    monkeypatch.setattr(Path, "open", fail_with(errno.EROFS))
    with pytest.raises(StorageError) as caught:
        write_json(path, {})
    assert str(caught.value) == (
        f"'{path}' can't be written (Read-only file system). Choose another folder, or change its permissions."
    )
    assert files_in(tmp_path) == []


def test_a_file_that_is_too_large_is_no_matter_of_permissions(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    monkeypatch.setattr(storage.os, "fsync", fail_with(errno.EFBIG))
    with pytest.raises(StorageError) as caught:
        write_json(path, {})
    assert str(caught.value) == (
        f"'{path}' is larger than files may be here: it was not written, and what was there before is unchanged. Lift "
        "the limit (ulimit -f), or choose a folder on another disk."
    )
    assert files_in(tmp_path) == []


def test_place_below_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"can't be written \((Not a directory|File exists)\)"):
        atomic_write(tmp_path / "file" / "run.json", lambda file: file.write(b"x"))


def test_interrupt_passes_through_and_leaves_nothing(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        atomic_write(tmp_path / "a", interrupted)
    assert files_in(tmp_path) == []


def test_longest_file_name(tmp_path):
    path = tmp_path / ("é" * 120 + ".jpg.png")
    atomic_write(path, lambda file: file.write(b"x"))
    assert path.read_bytes() == b"x"


# --- JSON


def test_json_round_trip_of_odd_values(tmp_path):
    value = {"name": "né\nx\udcff", "figure": float("nan"), "size": (np.int64(3), np.float32(0.5)), "path": Path("a/b")}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {
        "name": "né\nx\udcff",
        "figure": None,
        "size": [3, 0.5],
        "path": str(Path("a/b")),
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is not valid JSON"),
        (b'{"format_version": 1', "it is not valid JSON"),
        (b"\xff\xfe\x00", "it is not valid JSON"),
        (b"[" * 100_000, "it is not valid JSON"),
        (b'{"a": ' * 100_000, "it is not valid JSON"),
        (b'{"a": NaN}', "it is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it is not valid JSON"),
        (b"[1, 2]", "it holds no JSON object"),
        (b'{"format_version": "1"}', "its format_version is '1'"),
        (b'{"format_version": true}', "its format_version is True"),
        (b'{"format_version": -1}', "its format_version is -1"),
    ],
)
def test_damaged_json(tmp_path, content, why):
    path = tmp_path / "run.json"
    path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        read_json(path)
    assert str(caught.value) == f"'{path}' is damaged: {why}. Delete it and make it again."


def test_json_that_is_missing_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(StorageError) as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value) == f"There is no file '{tmp_path / 'a.json'}'."
    with pytest.raises(StorageError, match="can't be read"):
        read_json(tmp_path)
    monkeypatch.setattr(storage, "_LARGEST_JSON", 2**20)
    (tmp_path / "a.json").write_bytes(b" " * (2**20 + 1))
    with pytest.raises(StorageError, match="is damaged: it is larger than 1 MiB"):
        read_json(tmp_path / "a.json")


def test_tensors_of_any_size_are_read(tmp_path, monkeypatch):
    path, tensors = tmp_path / "a.safetensors", {"foreground": torch.rand(2, 3, 4)}
    write_safetensors(path, tensors)
    large = SimpleNamespace(st_mode=path.stat().st_mode, st_size=5 * 2**30)
    monkeypatch.setattr(storage, "_half_of_memory", lambda: None)
    monkeypatch.setattr(os, "fstat", lambda _: large)
    monkeypatch.setattr(reading, "_all_of", lambda file, size, most: file.read() if most > size else b"")
    found = read_safetensors(path, {"foreground": EXPECTED["foreground"]})
    assert torch.equal(found["foreground"], tensors["foreground"])


def test_a_file_with_a_hole_that_no_memory_holds_is_refused_by_its_size(tmp_path):
    with (tmp_path / "a.safetensors").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(StorageError, match="it is larger than"):
        read_safetensors(tmp_path / "a.safetensors", EXPECTED)


def test_tensors_that_memory_does_not_hold(tmp_path, monkeypatch):
    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr(storage, "read_bounded", none_left)
    with pytest.raises(StorageError, match=r"^'.*a\.safetensors' does not fit in memory\. Read it on a machine that"):
        read_safetensors(tmp_path / "a.safetensors", EXPECTED)


def test_newer_format(tmp_path):
    path = tmp_path / "run.json"
    write_json(path, {"format_version": FORMAT_VERSION + 1})
    for read in (lambda: read_json(path), lambda: read_run(tmp_path)):
        with pytest.raises(StorageError) as caught:
            read()
        assert str(caught.value) == (
            f"'{path}' was made by a newer asic3d (format 2; this one reads up to 1). "
            "Update asic3d as you installed it."
        )


def test_read_run(tmp_path):
    with pytest.raises(StorageError) as caught:
        read_run(tmp_path)
    assert str(caught.value) == (
        f"'{tmp_path}' is no run folder: it holds no run.json. Make one with 'asic3d align PHOTOS'."
    )
    prepare_output(tmp_path)
    with pytest.raises(StorageError) as caught:
        read_run(tmp_path)
    assert str(caught.value) == (
        f"The run in '{tmp_path}' did not finish. Go on with it, PHOTOS being its photo folder: "
        f"asic3d align PHOTOS -o {tmp_path} --resume"
    )
    (tmp_path / "my photos").mkdir()
    for photos, said in ((tmp_path / "my photos", f"'{tmp_path}/my photos'"), (tmp_path / "gone", "PHOTOS")):
        prepare_output(tmp_path, photos=photos)
        with pytest.raises(StorageError, match=rf": asic3d align {said} -o {tmp_path} --resume$"):
            read_run(tmp_path)
    write_json(tmp_path / "run.json", {"photos": []})
    with pytest.raises(StorageError, match="it has no format_version"):
        read_run(tmp_path)
    write_json(tmp_path / "run.json", {"format_version": FORMAT_VERSION, "photos": []})
    assert read_run(tmp_path)["photos"] == []


# --- tensors


def test_tensor_round_trip(tmp_path):
    base = torch.rand(3, 4, 4, 2)
    shared = {"canonical": base, "foreground": base[..., 0]}  # a view, not contiguous
    write_safetensors(tmp_path / "a.safetensors", shared, {"made": "here"})
    read = read_safetensors(tmp_path / "a.safetensors", EXPECTED)
    assert list(read) == ["canonical", "foreground"]
    assert torch.equal(read["canonical"], base)
    assert torch.equal(read["foreground"], base[..., 0])
    read["canonical"][0] = 0  # not a view of a read-only file


def header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def tensor_header(dtype="F32", shape=(3, 4, 4, 2), offsets=(0, 384)) -> bytes:
    return json.dumps({"canonical": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x00\x00",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**40),
        header(b"not JSON"),
        header(b"{" * 50_000),
        header(tensor_header(), bytes(100)),
        header(tensor_header(offsets=(0, 2**62)), bytes(384)),
        header(tensor_header(offsets=(384, 0)), bytes(384)),
        header(tensor_header(offsets=(-4, 380)), bytes(384)),
        header(tensor_header(shape=(2**62, 2**62)), bytes(384)),
        header(tensor_header(shape=(-3, 4, 4, 2)), bytes(384)),
        header(tensor_header(dtype="PICKLE"), bytes(384)),
        header(tensor_header(), bytes(500)),
    ],
)
def test_hostile_tensor_files(tmp_path, content):
    path = tmp_path / "alignment.safetensors"
    path.write_bytes(content)
    with pytest.raises(StorageError) as caught:
        read_safetensors(path, EXPECTED)
    assert str(caught.value) == (
        f"'{path}' is damaged: it is cut off, or not a safetensors file. Delete it and make it again."
    )


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_tensor_files_give_tensors_or_a_storage_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    write_safetensors(path, {"canonical": torch.ones(1, 4, 4, 2), "foreground": torch.ones(1, 4, 4)})
    content = bytearray(path.read_bytes())
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)):
        content[place] = value
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    try:
        read = read_safetensors(path, EXPECTED)
    except StorageError as error:
        assert "damaged" in str(error)
    else:
        assert read["canonical"].shape[1:] == (4, 4, 2)
        assert read["canonical"].isfinite().all()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"canonical": torch.rand(3, 4, 4, 2).double()}, "its tensor 'canonical' is float64, not float32"),
        ({"canonical": torch.rand(3, 4, 5, 2)}, "its tensor 'canonical' is 3 x 4 x 5 x 2, not 3 x 4 x 4 x 2"),
        ({"canonical": torch.tensor(1.0)}, "its tensor 'canonical' is a single number, not N x 4 x 4 x 2"),
        ({"foreground": torch.rand(2, 4, 4)}, "its tensor 'foreground' is 2 x 4 x 4, not 3 x any x 4"),
        (
            {"foreground": torch.full((3, 4, 4), float("nan"))},
            "its tensor 'foreground' holds values that are not finite",
        ),
        ({"canonical": None}, "it has no tensor 'canonical'"),
    ],
)
def test_other_tensors_than_expected(tmp_path, change, why):
    path = tmp_path / "alignment.safetensors"
    write_safetensors(path, {name: tensor for name, tensor in (tensors() | change).items() if tensor is not None})
    with pytest.raises(StorageError) as caught:
        read_safetensors(path, EXPECTED)
    assert str(caught.value) == f"'{path}' is damaged: {why}. Delete it and make it again."


def test_infinity_where_it_is_allowed(tmp_path):
    write_safetensors(tmp_path / "a", {"x": torch.tensor([float("inf")])})
    assert read_safetensors(tmp_path / "a", {"x": (torch.float32, (1,))}, finite=False)["x"].item() == float("inf")


# --- names from files


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", ".", "..", "a\0b", "a/..", 7, None])
def test_names_that_leave_the_folder(tmp_path, name):
    with pytest.raises(StorageError) as caught:
        inside(tmp_path, name)
    assert str(caught.value) == f"The name {name!r} is not that of a file in '{tmp_path}'; nothing was read or written."


@pytest.mark.parametrize("name", ["a.jpg.png", "left/a b.png", "12:30.jpg", "..a/b..", "né.png", "a\nb"])
def test_names_that_stay(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


def test_links_lead_out_only_when_allowed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "out").symlink_to(tmp_path)
    (tmp_path / "run" / "loop").symlink_to(tmp_path / "run" / "loop")
    with pytest.raises(StorageError, match="leads out of"):
        inside(tmp_path / "run", "out/x.png")
    with pytest.raises(StorageError):  # by the name, or by the write: Python's versions differ
        write_json(inside(tmp_path / "run", "loop/x.png"), {})
    assert inside(tmp_path / "run", "out/x.png", follow_links=True) == tmp_path / "run" / "out" / "x.png"


# --- run folders


def test_prepare_output_makes_a_run_folder(tmp_path):
    prepare_output(tmp_path / "new" / "run")
    assert is_run_folder(tmp_path / "new" / "run")
    prepare_output(tmp_path / "new" / "run")  # interrupted before it wrote anything
    assert files_in(tmp_path / "new" / "run") == [MARKER]


def test_prepare_output_keeps_a_finished_run(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(StorageError) as caught:
        prepare_output(tmp_path)
    assert str(caught.value) == (
        f"'{tmp_path}' holds a finished run. Replace it with --overwrite (overwrite=True in Python), or choose another "
        "folder with -o."
    )
    with pytest.raises(StorageError, match=r"^There is nothing to resume: '.*' holds a finished run. Replace it"):
        prepare_output(tmp_path, resume=True)
    prepare_output(tmp_path, overwrite=True)
    prepare_output(tmp_path, overwrite=True, resume=True)
    assert (tmp_path / "run.json").read_text() == "{}"


@pytest.mark.parametrize("overwrite", [False, True])
def test_prepare_output_refuses_other_peoples_folders(tmp_path, overwrite):
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / "thesis.tex").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        prepare_output(tmp_path, overwrite=overwrite)
    assert str(caught.value) == (
        f"'{tmp_path}' holds other files, such as 'thesis.tex'. Choose an empty or new folder for the run with -o."
    )
    assert files_in(tmp_path) == [".DS_Store", "thesis.tex"]


def test_prepare_output_where_nothing_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError) as caught:
        prepare_output(tmp_path / "file")
    assert str(caught.value) == f"'{tmp_path / 'file'}' is a file. Choose a folder for the run with -o."
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: fail_with(errno.EACCES)())
    with pytest.raises(StorageError) as caught:
        prepare_output(tmp_path / "run")
    assert str(caught.value) == (
        f"'{tmp_path / 'run'}' can't be written (Permission denied). Choose another folder, or change its permissions."
    )


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
