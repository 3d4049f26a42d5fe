"""asic3d export-colmap: what is in the folder, what is never replaced, and what people are told."""

import contextlib
import dataclasses
import json
import shutil
import sqlite3
import stat
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pycolmap
import pytest
from cli_runner import plant_library, run
from colmap_scene import as_sets, files_below
from PIL import Image
from planted_alignment import SIZES, picture, plant

import asic3d
from asic3d.collection import load_photo
from asic3d.errors import ExportError, StorageError
from asic3d.storage import read_json
from asic3d.tracks import MatchGraph, canonical_tracks
from asic3d_cli.export_colmap import MODELS
from asic3d_integrations.colmap import cameras, exchange, export, sources
from asic3d_integrations.colmap.database import read_database
from asic3d_integrations.colmap.edges import Edge
from asic3d_integrations.colmap.export import ExportOptions, export_colmap
from asic3d_integrations.colmap.mapping import Mapped
from asic3d_integrations.colmap.poses import Poses
from asic3d_integrations.colmap.refined import Refined
from asic3d_integrations.colmap.self_check import Verdict

FILES = {"database.db", "pairs.txt", "tracks.npz", "text", "features.h5", "matches.h5", "report.json"}
FEW = ExportOptions(tracks="canonical", max_tracks=80)


@pytest.fixture
def planted(tmp_path):
    return plant(tmp_path / "photos")


def with_photo(alignment, index, path):
    """The alignment with another file for one of its photos."""
    photos = list(alignment.collection.photos)
    loaded = load_photo(path)
    photos[index] = dataclasses.replace(loaded, name=str(path.relative_to(alignment.collection.root)))
    return dataclasses.replace(alignment, collection=dataclasses.replace(alignment.collection, photos=tuple(photos)))


def size_of(path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_files(planted, tmp_path):
    made = export_colmap(planted, tmp_path / "out", FEW)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert made.image_folder == tmp_path / "photos"
    assert not list(tmp_path.glob(".asic3d*"))
    report = read_json(tmp_path / "out" / "report.json")
    assert report["files"] == sorted(files_below(tmp_path / "out"))
    assert report["tracks"] == len(made.graph.lengths) > 40
    assert report["mean_track_length"] == 3
    assert (report["pairs_matched"], report["pairs_verified"]) == (3, 3)
    assert [photo["focal"] for photo in report["photos"]] == [1.2 * max(size) for size in SIZES]
    assert (tmp_path / "out" / "pairs.txt").read_text() == "a.jpg b.jpg\na.jpg c.jpg\nb.jpg c.jpg\n"


def test_tracks_for_numpy(planted, tmp_path):
    made = export_colmap(planted, tmp_path / "out", FEW)
    with np.load(tmp_path / "out" / "tracks.npz", allow_pickle=False) as tracks:
        rows = np.stack([tracks["track"], tracks["photo"], tracks["keypoint"]], 1)
        assert np.array_equal(rows, made.graph.tracks)
        assert tracks["names"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
        assert tracks["sizes"].tolist() == [list(size) for size in SIZES]
        wanted = [made.graph.keypoints[photo][keypoint] for _, photo, keypoint in rows]
        assert np.array_equal(tracks["xy"], np.stack(wanted))


def test_hloc_finds_its_groups(planted, tmp_path):
    made = export_colmap(planted, tmp_path / "out", FEW)
    with h5py.File(tmp_path / "out" / "features.h5") as file:
        assert sorted(file) == ["a.jpg", "b.jpg", "c.jpg"]
        assert np.array_equal(file["b.jpg/keypoints"], made.graph.keypoints[1])  # hloc's pixels are ours
        assert file["b.jpg/image_size"][:].tolist() == list(SIZES[1])
    with h5py.File(tmp_path / "out" / "matches.h5") as file:
        partner, score = file["a.jpg/c.jpg/matches0"][:], file["a.jpg/c.jpg/matching_scores0"][:]
    pairs = made.graph.matches[0, 2]
    assert np.array_equal(partner[pairs[:, 0]], pairs[:, 1])
    assert (partner >= 0).sum() == len(pairs)
    assert set(score[partner >= 0].tolist()) <= {0.5, 1.0} and not score[partner < 0].any()


def test_text_for_old_colmap(planted, tmp_path):
    made = export_colmap(planted, tmp_path / "out", FEW)
    text = tmp_path / "out" / "text"
    first, *rest = (text / "keypoints" / "a.jpg.txt").read_text().splitlines()
    assert first == f"{len(made.graph.keypoints[0])} 128"
    table = np.array([line.split() for line in rest], float)
    assert table.shape == (len(made.graph.keypoints[0]), 4 + 128)
    assert np.allclose(table[:, :2], made.graph.keypoints[0] + 0.5, atol=1e-3)
    blocks = (text / "matches.txt").read_text().strip().split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == ["a.jpg b.jpg", "a.jpg c.jpg", "b.jpg c.jpg"]
    assert np.array_equal(np.loadtxt(blocks[2].splitlines()[1:], int), made.graph.matches[1, 2])
    assert (text / "images.txt").read_text().split() == ["a.jpg", "b.jpg", "c.jpg"]


def test_without_h5py_the_rest_is_written(planted, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    export_colmap(planted, tmp_path / "out", FEW)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES - {"features.h5", "matches.h5"}


def test_a_match_for_each_keypoint_of_a_pair():
    rows = np.array([[0, 5], [1, 6], [0, 7]])
    partner, score = exchange._partners(3, rows, np.array([[0, 7]]))
    assert (partner.tolist(), score.tolist()) == ([7, 6, -1], [1, 0.5, 0])
    assert exchange._partners(3, rows, None)[0].tolist() == [5, 6, -1]


def test_colmap_finds_the_photos_by_their_names(planted, tmp_path):
    made = export_colmap(planted, tmp_path / "out", FEW)
    with pycolmap.Database.open(tmp_path / "out" / "database.db") as database:
        names = [image.name for image in database.read_all_images()]
        sizes = [(camera.width, camera.height) for camera in database.read_all_cameras()]
    assert [size_of(made.image_folder / name) for name in names] == sizes


def test_turned_photos_are_copied_upright(planted, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = Image.fromarray(picture(1)).transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / "photos" / "turned.jpg", exif=exif, quality=95)
    alignment = with_photo(planted, 1, tmp_path / "photos" / "turned.jpg")
    made = export_colmap(alignment, tmp_path / "out", FEW)
    assert made.image_folder == tmp_path / "out" / "images"
    copy = Image.open(made.image_folder / "turned.jpg")
    assert copy.size == SIZES[1] and 0x0112 not in copy.getexif()
    assert np.abs(np.asarray(copy).astype(int) - picture(1)).mean() < 4
    assert (made.image_folder / "a.jpg").read_bytes() == (tmp_path / "photos" / "a.jpg").read_bytes()
    entries = {photo["name"]: photo["copied"] for photo in made.report["photos"]}
    assert entries == {
        "a.jpg": "another photo needs a copy",
        "turned.jpg": "it is stored turned",
        "c.jpg": "another photo needs a copy",
    }


def test_names_and_formats_that_colmap_can_not_read(planted, tmp_path):
    photos = tmp_path / "photos"
    (photos / "my photos").mkdir()
    Image.fromarray(picture(0)).save(photos / "my photos" / "one.webp", lossless=True)
    Image.fromarray(picture(1)).save(photos / "my photos" / "one 2#.png")
    alignment = with_photo(planted, 0, photos / "my photos" / "one.webp")
    alignment = with_photo(alignment, 1, photos / "my photos" / "one 2#.png")
    made = export_colmap(alignment, tmp_path / "out", dataclasses.replace(FEW, masks=True))
    assert made.images.names == ("my_photos/one.webp.jpg", "my_photos/one_2_.png", "c.jpg")
    content = read_database(tmp_path / "out" / "database.db")
    assert content.names == made.images.names
    assert all((made.image_folder / name).is_file() for name in content.names)
    assert np.array_equal(np.asarray(Image.open(made.image_folder / "my_photos/one_2_.png")), picture(1))
    assert (tmp_path / "out" / "masks" / "my_photos" / "one.webp.jpg.png").is_file()
    assert " " not in "".join((tmp_path / "out" / "pairs.txt").read_text().split(" ")[:1])
    assert all(len(line.split()) == 2 for line in (tmp_path / "out" / "pairs.txt").read_text().splitlines())


@pytest.mark.parametrize("name", ["one.png", "one.bmp", "grey.jpg"])
def test_files_that_colmap_reads_are_not_copied(planted, tmp_path, name):
    image = Image.fromarray(picture(1))
    (image.convert("L") if "grey" in name else image).save(tmp_path / "photos" / name)
    made = export_colmap(with_photo(planted, 1, tmp_path / "photos" / name), tmp_path / "out", FEW)
    assert made.images.reasons == {} and made.image_folder == tmp_path / "photos"


@pytest.mark.parametrize(
    ("mode", "name"), [("P", "one.png"), ("RGBA", "one.png"), ("CMYK", "one.jpg"), ("RGB", "one.tif")]
)
def test_files_that_colmap_may_not_read_are_copied(planted, tmp_path, mode, name):
    Image.fromarray(picture(1)).convert(mode).save(tmp_path / "photos" / name)
    made = export_colmap(with_photo(planted, 1, tmp_path / "photos" / name), tmp_path / "out", FEW)
    assert made.images.reasons == {name: "COLMAP does not read its kind of file everywhere"}
    with Image.open(made.image_folder / made.images.names[1]) as copy:
        assert (copy.mode, copy.size) == ("RGB", SIZES[1])


def test_copies_that_are_asked_for(planted, tmp_path):
    made = export_colmap(planted, tmp_path / "out", dataclasses.replace(FEW, copy_images=True))
    assert made.images.names == planted.names
    assert {photo["copied"] for photo in made.report["photos"]} == {"it was asked for"}
    assert (tmp_path / "out" / "images" / "b.jpg").read_bytes() == (tmp_path / "photos" / "b.jpg").read_bytes()


def test_names_that_become_the_same(planted, tmp_path):
    photos = tmp_path / "photos"
    for index, name in enumerate(("x y.jpg", "x_y.jpg")):
        Image.fromarray(picture(index)).save(photos / name)
    alignment = with_photo(with_photo(planted, 0, photos / "x y.jpg"), 1, photos / "x_y.jpg")
    made = export_colmap(alignment, tmp_path / "out", FEW)
    assert made.images.names == ("x_y.jpg", "_x_y.jpg", "c.jpg")
    assert size_of(made.image_folder / "_x_y.jpg") == SIZES[1]


def test_masks_fit_the_photos(planted, tmp_path):
    export_colmap(planted, tmp_path / "out", dataclasses.replace(FEW, masks=True))
    mask = np.asarray(Image.open(tmp_path / "out" / "masks" / "b.jpg.png"))
    assert np.array_equal(mask, planted.mask("b.jpg"))


def test_photos_that_take_no_part_are_named(planted, tmp_path):
    alignment = dataclasses.replace(planted, outliers=("c.jpg",))
    report = export_colmap(alignment, tmp_path / "out", FEW).report
    assert [photo.get("left_out") for photo in report["photos"]] == [None, None, "it seems to show something else"]
    assert report["photos"][2]["keypoints"] == 0
    mirrored = dataclasses.replace(planted, mirrored=(True, False, False))
    report = export_colmap(mirrored, tmp_path / "other", FEW).report
    assert report["photos"][0]["left_out"] == "it was mirrored to fit the others, and no camera sees things mirrored"


def test_an_earlier_export_stays_unless_it_may_go(planted, tmp_path):
    export_colmap(planted, tmp_path / "out", dataclasses.replace(FEW, masks=True))
    before = files_below(tmp_path / "out")
    with pytest.raises(StorageError, match=r"out' holds an earlier export, and nothing was changed\. Replace it with"):
        export_colmap(planted, tmp_path / "out", FEW)
    assert files_below(tmp_path / "out") == before
    export_colmap(planted, tmp_path / "out", dataclasses.replace(FEW, overwrite=True))
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


@pytest.mark.parametrize("name", ["notes.txt", ".git/config", "sparse/0/cameras.bin", "text/keypoints/mine.txt"])
def test_what_was_put_into_an_export_stays(planted, tmp_path, name):
    export_colmap(planted, tmp_path / "out", FEW)
    (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    before = files_below(tmp_path / "out")
    with pytest.raises(StorageError, match=rf"holds other files, such as '{name}', and nothing was changed"):
        export_colmap(planted, tmp_path / "out", dataclasses.replace(FEW, overwrite=True))
    assert files_below(tmp_path / "out") == before


def test_a_link_in_an_export_is_kept_and_not_followed(planted, tmp_path):
    export_colmap(planted, tmp_path / "out", FEW)
    (tmp_path / "out" / "mine").symlink_to(tmp_path / "photos")
    with pytest.raises(StorageError, match=r"holds other files, such as 'mine', and nothing was changed"):
        export_colmap(planted, tmp_path / "out", dataclasses.replace(FEW, overwrite=True))
    (tmp_path / "out" / "mine").unlink()
    (tmp_path / "out" / ".DS_Store").write_text("")  # what a system strews about is nobody's
    export_colmap(planted, tmp_path / "out", dataclasses.replace(FEW, overwrite=True))
    assert (tmp_path / "photos" / "a.jpg").is_file()


def test_that_a_folder_can_not_be_written_is_said_before_the_work(planted, tmp_path):
    (tmp_path / "file").write_text("")
    seen = []
    with pytest.raises(StorageError, match=r"can't be written"):
        export_colmap(planted, tmp_path / "file" / "out", FEW, progress=seen.append)
    assert seen == []


@pytest.mark.parametrize("name", ["database.db", "report.json", "notes.txt"])
def test_what_is_not_ours_stays_even_with_overwrite(planted, tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text('{"files": ["notes.txt"]}')
    with pytest.raises(StorageError, match=rf"holds other files, such as '{name}', and nothing was changed"):
        export_colmap(planted, tmp_path / "out", dataclasses.replace(FEW, overwrite=True))
    assert files_below(tmp_path / "out") == {name: b'{"files": ["notes.txt"]}'}


def test_a_failure_leaves_the_earlier_export(planted, tmp_path, monkeypatch):
    export_colmap(planted, tmp_path / "out", FEW)
    before = files_below(tmp_path / "out")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "write_text", fail)
    with pytest.raises(KeyboardInterrupt):
        export_colmap(planted, tmp_path / "out", dataclasses.replace(FEW, overwrite=True))
    with pytest.raises(KeyboardInterrupt):
        export_colmap(planted, tmp_path / "new", FEW)
    assert files_below(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out"}


def test_a_disk_that_is_full_when_pairs_are_verified(planted, tmp_path, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("No registered database factory succeeded.")

    monkeypatch.setattr(pycolmap, "geometric_verification", full)
    with pytest.raises(StorageError, match=r"out/database\.db' can't be used as a database of COLMAP \(No registered"):
        export_colmap(planted, tmp_path / "out", FEW)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(StorageError, match=r"^The disk is full: '.*out/database\.db' was not written"):
        export_colmap(planted, tmp_path / "out", FEW)


def test_a_folder_that_can_not_be_written(planted, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file' is a file\. Choose a folder with -o\.$"):
        export_colmap(planted, tmp_path / "file", FEW)
    with pytest.raises(StorageError, match=r"can't be written \(Not a directory\)|can't be written"):
        export_colmap(planted, tmp_path / "file" / "below", FEW)


def test_the_same_export_again(planted, tmp_path):
    one, other = (export_colmap(planted, tmp_path / name, FEW) for name in ("one", "other"))
    assert one.report == other.report
    assert as_sets(one.graph.tracks) == as_sets(other.graph.tracks)


# The command


@pytest.fixture
def library(tmp_path, monkeypatch):
    plant_library(tmp_path, monkeypatch)
    return tmp_path


def test_command_writes_into_the_run(library):
    result = run("export-colmap", "--tracks", "canonical", "run", "--max-tracks", "60")
    assert result.exit_code == 0, result.output
    report = read_json(library / "run" / "colmap" / "report.json")
    assert (
        f"{report['tracks']} canonical tracks, seen in 3.0 photos on average; a point is exact to about 1.0 pixels."
        in result.output
    )
    assert "3 of 3 pairs of photos verified, with 100% of their matches within 4 pixels." in result.output
    assert "Database  run/colmap/database.db" in result.output


def test_command_as_json(library):
    result = run(
        "export-colmap",
        "--tracks",
        "canonical",
        "-o",
        "out",
        "--json",
        "--camera-model",
        "PINHOLE",
        "--focal",
        "90",
        "--shared-camera",
    )
    printed = json.loads(result.output)
    assert printed["folder"] == "out"
    assert {photo["focal"] for photo in printed["photos"]} == {90}
    assert {camera.model for camera in read_database(library / "out" / "database.db").cameras} == {"PINHOLE"}


def test_command_is_quiet(library):
    assert run("export-colmap", "--tracks", "canonical", "-q").output == ""


def test_command_says_who_takes_no_part_and_what_was_copied(library, monkeypatch):
    Image.fromarray(picture(0)).save(library / "photos" / "a.webp")
    planted = with_photo(plant(library / "photos", outliers=("c.jpg",)), 0, library / "photos" / "a.webp")
    monkeypatch.setitem(vars(asic3d), "load_alignment", lambda run, photos: planted)
    output = run("export-colmap", "--tracks", "canonical").output
    assert "'c.jpg' takes no part: it seems to show something else." in output
    assert "All photos were copied, because of 'a.webp': COLMAP does not read its kind of file everywhere." in output


def test_command_refuses_to_replace(library):
    run("export-colmap", "--tracks", "canonical", "-q")
    result = run("export-colmap", "--tracks", "canonical")
    assert result.exit_code == 1
    assert "holds an earlier export, and nothing was changed." in result.output
    assert run("export-colmap", "--tracks", "canonical", "--overwrite").exit_code == 0


def test_command_adds_to_a_copy(library):
    run("export-colmap", "--tracks", "canonical", "-q", "-o", "theirs")
    shutil.move(library / "theirs" / "database.db", library / "project.db")
    (library / "project.db").chmod(stat.S_IRUSR)
    before = (library / "project.db").read_bytes()
    result = run("export-colmap", "--tracks", "canonical", "--add-to", "project.db", "--max-tracks", "50")
    assert result.exit_code == 0, result.output
    assert "pairs were added to a copy: asic3d_out/colmap/added.db" in result.output
    assert (library / "project.db").read_bytes() == before
    theirs, added = read_database(library / "project.db"), read_database(library / "asic3d_out" / "colmap" / "added.db")
    report = read_json(library / "asic3d_out" / "colmap" / "report.json")
    assert (
        sum(map(len, added.verified.values())) == sum(map(len, theirs.verified.values())) + report["added"]["matches"]
    )
    assert run("export-colmap", "--tracks", "canonical", "--add-to", "project.db", "--overwrite").exit_code == 0


@pytest.mark.parametrize(("start", "size"), [(0.15, 3000), (0.5, 3000), (0.5, None)])
def test_a_damaged_database_is_refused_before_the_work(planted, tmp_path, start, size):
    export_colmap(planted, tmp_path / "theirs", FEW)
    content = bytearray((tmp_path / "theirs" / "database.db").read_bytes())
    first = int(start * len(content)) // 4096 * 4096
    content[first : first + size if size else None] = b"\xa5" * size if size else b""
    (tmp_path / "damaged.db").write_bytes(content)
    seen = []
    with pytest.raises(StorageError, match=r"damaged\.db' (is damaged \(|can't be used as a database of COLMAP \()"):
        export_colmap(planted, tmp_path / "out", FEW, database=tmp_path / "damaged.db", progress=seen.append)
    assert seen == [] and not (tmp_path / "out").exists()


def test_a_database_of_other_sizes_is_refused_before_the_work(planted, tmp_path):
    export_colmap(planted, tmp_path / "theirs", FEW)
    with contextlib.closing(sqlite3.connect(tmp_path / "theirs" / "database.db")) as file, file:
        file.execute("UPDATE cameras SET width = width + 1")
    seen = []
    with pytest.raises(ExportError, match=r"^'a\.jpg' is \d+ x \d+ pixels upright, but \d+ x \d+ in the database"):
        export_colmap(
            planted, tmp_path / "out", FEW, database=tmp_path / "theirs" / "database.db", progress=seen.append
        )
    assert seen == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--add-to", "none.db"), "There is no database 'none.db'."),
        (("--add-to", "photos/a.jpg"), "'photos/a.jpg' can't be used as a database of COLMAP"),
        (("--add-to", "photos"), "'photos' is a folder. Name the file of the database."),
        (("--focal", "50mm"), "A focal length in mm needs the sensor's size, which is not in the EXIF data of 'a.jpg'"),
        (
            ("--focal", "9" * 20),
            "A focal length of 1e+20 pixels is 1e+18 times the longer side of 'a.jpg'; lenses have 0.1 to 100 times.",
        ),
        (("--focal", "5"), "A focal length of 5 pixels is 0.052 times the longer side of 'a.jpg'"),
    ],
)
def test_command_refuses(library, words, message):
    result = run("export-colmap", "--tracks", "canonical", *words)
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert not (library / "asic3d_out" / "colmap").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--max-tracks", "0"), "'0' is not a whole number from 1 up."),
        (("--min-views", "1"), "'1' is not a whole number from 2 up."),
        (("--min-views", "4"), "Invalid value for '--min-views': 4 is more than the 3 photos of the run."),
        (("--seed", "x"), "'x' is not"),
        (("--seed", "-1"), "'-1' is not"),
        (("--seed", "9999999999"), "'9999999999' is not"),
        (("--camera-model", "FISHEYE"), "'FISHEYE' is not one of 'SIMPLE_PINHOLE', 'PINHOLE',"),
        *[
            (("--focal", value), f"'{value}' is no focal length; write pixels, such as 1200, or millimetres")
            for value in ("wide", "-5", "0", "1e9", "nan", "")
        ],
        *[
            (words, f"{words[0]} means something with --map. Leave it out, or add that.")
            for words in (("--mapper", "global"), ("--mapper", "incremental"), ("--strict",), ("--force",))
        ],
        (("--no-sift",), "--sift/--no-sift means something with --tracks refined, or auto."),
        (
            ("--tracks", "refined", "--max-tracks", "9"),
            "--max-tracks means something with --tracks canonical, or auto.",
        ),
        (("--tracks", "refined", "--min-views", "2"), "--min-views means something with --tracks canonical, or auto."),
    ],
)
def test_wrong_usage(library, words, message):
    result = run("export-colmap", "--tracks", "canonical", *words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())
    assert not (library / "asic3d_out").exists()


def test_the_models_that_may_be_asked_for():
    assert MODELS == cameras.MODELS


# Which tracks, and cameras


def edge(first: int, second: int) -> Edge:
    return Edge((first, second), np.zeros((0, 2)), np.zeros((0, 2)), 1.0)


@pytest.mark.parametrize(
    ("pairs", "photos", "expected"),
    [
        ([], 8, 0),
        ([(0, 1), (1, 2), (2, 3), (4, 5)], 8, 0),  # a chain by chance, as different cows have it
        ([(0, 1), (1, 2), (0, 2), (2, 3)], 8, 3),
        ([(0, 1), (1, 2), (2, 3), (0, 3)], 4, 4),
        ([(0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)], 6, 3),  # two loops on one pair
        ([(0, 1)], 2, 2),
        ([(0, 1), (1, 2)], 3, 3),
    ],
)
def test_photos_that_loops_hold_together(pairs, photos, expected):
    assert sources._held_together(tuple(edge(*pair) for pair in pairs), photos) == expected


def found_poses(planted, monkeypatch, edges, trusted: bool):
    """The pose finder answers with a planted scene: its true model, these edges, this verdict."""
    graph = canonical_tracks(planted, 100)
    model = pycolmap.Reconstruction()
    for number, (name, size) in enumerate(zip(graph.names, graph.sizes, strict=True), 1):
        model.add_camera_with_trivial_rig(pycolmap.Camera.create_from_model_name(number, "PINHOLE", 99.0, *size))
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.eye(3)), np.array([number, 0.0, 0]))
        model.add_image_with_trivial_frame(pycolmap.Image(name=name, camera_id=number, image_id=number), pose)
    verdict = Verdict(trusted, ("So it is.",), 3, 3, 1.0, 1.0, 1.0, (1.0, 1.0))
    mapped = Mapped((model,), verdict, {}, {"tried": []})
    poses = Poses(mapped, graph, tuple(edge(*pair) for pair in edges), None, "flow", {"pairs": 3})
    monkeypatch.setattr(sources, "find_poses", lambda *_: poses)
    monkeypatch.setattr(sources, "refined_graph", lambda *_: Refined(graph, poses.edges, (), {"pairs": 3}))


RING = [(0, 1), (1, 2)]


def test_cameras_are_written(library, planted, monkeypatch):
    found_poses(planted, monkeypatch, RING, trusted=True)
    result = run("export-colmap", "--map", "--strict")
    assert result.exit_code == 0, result.output
    folder = library / "asic3d_out" / "colmap"
    assert {"sparse", "transforms.json", "sparse_pc.ply", "scene.glb"} <= {path.name for path in folder.iterdir()}
    model = pycolmap.Reconstruction(folder / "sparse" / "0")
    assert sorted(image.name for image in model.images.values()) == ["a.jpg", "b.jpg", "c.jpg"]
    assert "refined tracks" in result.output
    assert "3 of 3 photos have a camera. These poses look right. So it is." in result.output
    assert read_json(folder / "report.json")["mapping"]["focal"]["a.jpg"][1] == 99


def test_a_model_that_is_cut_off_by_a_full_disk(library, planted, monkeypatch):
    found_poses(planted, monkeypatch, RING, trusted=True)
    whole = pycolmap.Reconstruction.write_binary

    def cut(self, place):  # COLMAP says nothing about it
        whole(self, place)
        content = (place / "images.bin").read_bytes()
        (place / "images.bin").write_bytes(content[: len(content) // 2])

    monkeypatch.setattr(pycolmap.Reconstruction, "write_binary", cut)
    result = run("export-colmap", "--map")
    assert result.exit_code == 1
    printed = "Error: 'asic3d_out/colmap/sparse/0' was not written whole: the disk is full. Free some space and run it"
    assert printed in result.output
    assert not (library / "asic3d_out" / "colmap").exists()


def test_cameras_that_are_doubted_are_written_and_strict_says_no(library, planted, monkeypatch):
    found_poses(planted, monkeypatch, RING, trusted=False)
    result = run("export-colmap", "--map", "--strict")
    assert result.exit_code == 1
    assert "Do not trust these poses. So it is." in result.output
    assert (library / "asic3d_out" / "colmap" / "sparse" / "0" / "images.bin").is_file()
    assert run("export-colmap", "--map", "--overwrite").exit_code == 0


def test_cameras_of_different_things_are_refused(library, planted, monkeypatch):
    found_poses(planted, monkeypatch, [], trusted=False)
    result = run("export-colmap", "--map")
    assert result.exit_code == 0
    printed = " ".join(result.output.split())
    assert "No cameras were looked for. None of 3 photos are held together by exact matches. That is so" in printed
    assert "canonical tracks" in printed
    folder = library / "asic3d_out" / "colmap"
    assert (folder / "database.db").is_file() and not (folder / "sparse").exists()
    assert run("export-colmap", "--map", "--strict", "--overwrite").exit_code == 1
    forced = run("export-colmap", "--map", "--tracks", "refined", "--force", "--overwrite")
    assert forced.exit_code == 0 and (folder / "sparse" / "0").is_dir()


def test_cameras_that_pass_the_check_need_no_loops(library, planted, monkeypatch):
    found_poses(planted, monkeypatch, [], trusted=True)
    assert "3 of 3 photos have a camera." in run("export-colmap", "--map").output


@pytest.mark.parametrize(("edges", "kind"), [(RING, "refined"), ([], "canonical")])
def test_auto_takes_what_holds_the_photos_together(library, planted, monkeypatch, edges, kind):
    found_poses(planted, monkeypatch, edges, trusted=False)
    assert json.loads(run("export-colmap", "--json").output)["kind"] == kind


def test_canonical_tracks_give_no_cameras(library):
    output = " ".join(run("export-colmap", "--map", "--tracks", "canonical").output.split())
    assert "No cameras were looked for. Canonical tracks are too coarse for cameras" in output


def test_no_exact_matches_at_all(library, planted, monkeypatch):
    nothing = MatchGraph(planted.names, planted.sizes, (np.zeros((0, 2), np.float32),) * 3, {})
    monkeypatch.setattr(sources, "refined_graph", lambda *_: Refined(nothing, (), (), {}))
    result = run("export-colmap", "--tracks", "refined")
    assert result.exit_code == 1
    assert "No exact matches were found at all. Take --tracks canonical for a database of coarse ones." in result.output
