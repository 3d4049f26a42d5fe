"""Miniature copies of published data sets in their exact layouts, of a few rendered photos."""

import csv
import json
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from asic3d.errors import CollectionError
from asic3d_integrations.keypoint_sets import KeypointSet

CATEGORY = "cat"
CLASS = "002.Laysan_Albatross"
FOLDER = "car(S)"


def told(reader, root: Path, *arguments) -> str:
    """What a reader says about a data set that it refuses."""
    with pytest.raises(CollectionError) as caught:
        list(reader(root, *arguments))
    return str(caught.value)


def photo_of(truth: KeypointSet, index: int) -> Path:
    return truth.folder / truth.files[index]


def as_jpeg(truth: KeypointSet, index: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(photo_of(truth, index)).convert("RGB").save(path, quality=95)


def write_spair(root: Path, truth: KeypointSet, categories: tuple[str, ...] = (CATEGORY,)) -> Path:
    """Every ordered pair of photos is a test pair."""
    for category in categories:
        pairs = root / "PairAnnotation" / "test"
        images = root / "ImageAnnotation" / category
        for folder in (pairs, images):
            folder.mkdir(parents=True, exist_ok=True)
        number = 0
        for i in range(len(truth)):
            as_jpeg(truth, i, root / "JPEGImages" / category / f"2008_{i}.jpg")
            points = {
                str(k): truth.keypoints[i, k].tolist() if truth.visible[i, k] else None for k in range(len(truth.names))
            }
            own = {"kps": points, "bndbox": truth.boxes[i].tolist(), "azimuth_id": 3, "category": category}
            size = dict(zip(("image_width", "image_height"), truth.sizes[i], strict=True))
            (images / f"2008_{i}.json").write_text(json.dumps(own | size))
            for j in range(len(truth)):
                if i != j:
                    number += 1
                    name = f"{number:06d}-2008_{i}-2008_{j}:{category}.json"
                    (pairs / name).write_text(json.dumps(spair_pair(truth, i, j, category)))
    return root


def spair_pair(truth: KeypointSet, i: int, j: int, category: str = CATEGORY) -> dict:
    both = np.flatnonzero(truth.visible[i] & truth.visible[j])
    return {
        "src_imname": f"2008_{i}.jpg",
        "trg_imname": f"2008_{j}.jpg",
        "src_imsize": [*truth.sizes[i], 3],
        "trg_imsize": [*truth.sizes[j], 3],
        "src_bndbox": truth.boxes[i].tolist(),
        "trg_bndbox": truth.boxes[j].tolist(),
        "src_kps": truth.keypoints[i, both].tolist(),
        "trg_kps": truth.keypoints[j, both].tolist(),
        "kps_ids": [str(k) for k in both],
        "category": category,
        "mirror": 0,
    }


def write_cub(root: Path, truth: KeypointSet, training: tuple[int, ...] = ()) -> Path:
    """Two classes: the photos, and a first class of one photo that is never used."""
    paths = ["001.Black_footed_Albatross/Black_0.jpg", *(f"{CLASS}/Laysan_{i}.jpg" for i in range(len(truth)))]
    photos = [0, *range(len(truth))]
    for path, i in zip(paths, photos, strict=True):
        as_jpeg(truth, i, root / "images" / path)
    (root / "parts").mkdir()
    (root / "images.txt").write_text("".join(f"{n} {path}\n" for n, path in enumerate(paths, 1)))
    boxes = [[*(truth.boxes[i, :2] + 1), *(truth.boxes[i, 2:] - truth.boxes[i, :2] + 1)] for i in photos]
    (root / "bounding_boxes.txt").write_text("".join(f"{n} {x} {y} {w} {h}\n" for n, (x, y, w, h) in numbered(boxes)))
    names = [f"{k} part {name}\n" for k, name in enumerate(truth.names, 1)]
    (root / "parts" / "parts.txt").write_text("".join(names))
    places = []
    for n, i in numbered(photos):
        for k in range(len(truth.names)):
            seen = truth.visible[i, k]
            x, y = truth.keypoints[i, k] + 1 if seen else (0.0, 0.0)
            places.append(f"{n} {k + 1} {x} {y} {int(seen)}\n")
    (root / "parts" / "part_locs.txt").write_text("".join(places))
    split = "".join(f"{n} {int(n - 2 in training)}\n" for n in range(1, len(paths) + 1))
    (root / "train_test_split.txt").write_text(split)
    return root


def write_cleaned(root: Path, photos: tuple[int, ...], name: str = "test_cub_cleaned.mat") -> Path:
    """The list of photos that ACSM keeps, as a struct array."""
    path = root / "cachedir" / "cub" / "data" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    box = {"x1": 1, "y1": 1, "x2": 9, "y2": 9}
    rows = [
        {"id": i + 2, "rel_path": f"{CLASS}/Laysan_{i}.jpg", "bbox": box, "mask": np.ones((4, 4), np.uint8)}
        for i in photos
    ]
    images = np.array([tuple(row.values()) for row in rows], dtype=[(key, object) for key in rows[0]])
    savemat(path, {"images": images[None]})
    return path


def numbered(values) -> enumerate:
    return enumerate(values, 1)


def ten_points(truth: KeypointSet) -> np.ndarray:
    """(N, 10, 2): keypoints that all photos show, the first ones again where there are fewer than ten."""
    shared = truth.keypoints[:, truth.visible.all(0)]
    return np.concatenate([shared, shared[:, ::-1] + 1, shared + 2], 1)[:, :10]


def write_pf_willow(root: Path, truth: KeypointSet, *, table: str = "", mats: bool = True) -> Path:
    """One folder; ``table`` is "", "columns" or "semicolons"."""
    points = ten_points(truth) + 1  # MATLAB counts from 1
    (root / FOLDER).mkdir(parents=True)
    for i in range(len(truth)):
        Image.open(photo_of(truth, i)).save(root / FOLDER / f"Cars_{i:03d}a.png")
        if mats:
            savemat(root / FOLDER / f"Cars_{i:03d}a.mat", {"pts_coord": points[i].T})
    if table:
        with (root / "test_pairs_pf.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(willow_header(table))
            for i in range(1, len(truth)):
                rows.writerow(willow_row(points, 0, i, table))
    return root


def willow_header(table: str) -> list[str]:
    names = ("XA", "YA", "XB", "YB")
    long = [f"{name}{number}" for name in names for number in range(1, 11)]
    return ["imageA", "imageB", *(long if table == "columns" else names)]


def willow_row(points: np.ndarray, i: int, j: int, table: str) -> list[str]:
    photos = [f"PF-dataset/{FOLDER}/Cars_{n:03d}a.png" for n in (i, j)]
    columns = [[repr(float(v)) for v in points[n][:, axis]] for n in (i, j) for axis in (0, 1)]
    return (
        [*photos, *(";".join(column) for column in columns)] if table == "semicolons" else [*photos, *chain(*columns)]
    )


def write_samurai(root: Path, truth: KeypointSet, place: str = "inside", name: str = "duck") -> Path:
    """One object; its masks are "inside" its folder, "beside" it, or in a folder of all masks ("apart")."""
    masks = {"inside": root / name / "masks", "beside": root / f"{name}_mask", "apart": root / "masks" / name}[place]
    masks.mkdir(parents=True)
    for i in range(len(truth)):
        as_jpeg(truth, i, root / name / f"{i}.jpg")
        shutil.copy(truth.folder / "masks" / f"{Path(truth.files[i]).name}.png", masks / f"{i}.png")
    return root
