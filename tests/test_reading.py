"""What people name may be anything: a device without an end is refused before it fills the memory."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from asic3d import reading
from asic3d.checkpoints import read_checkpoint
from asic3d.config import make_config
from asic3d.errors import BackboneError, CollectionError, ConfigError
from asic3d.reading import read_bounded, read_text_bounded
from asic3d_cli.points import PointsError, read_points
from asic3d_integrations.keypoint_sets import load_keypoint_set
from asic3d_integrations.reference_cameras import load_cameras


def test_what_is_within_bounds_is_read_whole(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffä\r\n".encode())
    assert read_bounded(tmp_path / "a", 7) == b"\xef\xbb\xbf\xc3\xa4\r\n"
    assert read_text_bounded(tmp_path / "a", 7) == "ä\r\n"
    with pytest.raises(OSError, match="it is larger than"):
        read_bounded(tmp_path / "a", 6)


def test_no_more_memory_is_taken_than_a_file_needs(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3000)
    program = (
        "import resource, sys; from pathlib import Path; from asic3d.reading import read_bounded;"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31));"
        "print(len(read_bounded(Path(sys.argv[1]), 2**34)))"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "a"], capture_output=True, text=True, check=True)
    assert done.stdout == "3000\n"


@pytest.mark.parametrize("more", [1, 100])
def test_a_file_that_grows_while_it_is_read(tmp_path, monkeypatch, more):
    monkeypatch.setattr(reading, "_STEP", 7)
    path = tmp_path / "a"
    path.write_bytes(b"x" * 30)
    status = path.stat()
    path.write_bytes(b"x" * (30 + more))
    monkeypatch.setattr(os, "fstat", lambda _: status)
    assert len(read_bounded(path, 200)) == 30 + more
    with pytest.raises(OSError, match="larger than"):
        read_bounded(path, 29 + more)


def test_where_no_bound_is_given_a_files_size_is_it_and_a_device_has_one(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "TEXT", 10)
    (tmp_path / "a").write_bytes(b"x" * 3000)
    assert len(read_bounded(tmp_path / "a", None)) == 3000
    if Path("/dev/zero").exists():
        with pytest.raises(OSError, match="it is larger than"):
            read_bounded(Path("/dev/zero"), None)


def test_a_file_with_a_hole_is_refused_by_its_size(tmp_path):
    with (tmp_path / "a").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="it is larger than 16384 MiB"):
        read_bounded(tmp_path / "a", 2**34)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pipes")
def test_a_pipe_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("x,y\n1,2\n",))
    writer.start()
    found = read_points(tmp_path / "pipe")
    assert [tuple(point) for point in found] == [(1, 2)]
    writer.join()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="has no device without an end")
def test_a_device_without_an_end_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "TEXT", 2**16)
    zero = tmp_path / "keypoints.json"
    zero.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match=r"can't be read \(it is larger than 0\.0625 MiB\)"):
        make_config(file=zero)
    with pytest.raises(PointsError, match="larger than"):
        read_points(zero)
    with pytest.raises(CollectionError, match="larger than"):
        load_keypoint_set(tmp_path)
    with pytest.raises(CollectionError, match="larger than"):
        load_cameras(zero)
    with pytest.raises(BackboneError, match="larger than"):
        read_checkpoint(zero)
