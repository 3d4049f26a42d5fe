"""Turned photos, mirrored photos and strangers: PCK with and without the settings that put them right.

python benchmarks/orientations.py SET [SET ...] [--strangers PHOTOS ...]

The variants of each SET (photos and keypoints.json) are made in a temporary folder: every third photo turned by 90, 180
and 270 degrees in turn, every other photo mirrored, and both. Then two photos of other things, from two of the
other SETs and of the folders PHOTOS, are laid among ten of each SET. Folders whose names are alike up to '_' show the
same kind of thing.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import asic3d
from asic3d_integrations.keypoint_sets import KeypointSet, evaluate_keypoints, load_keypoint_set, named_transfer

VARIANTS = {"as they are": (), "turned": ("turned",), "mirrored": ("mirrored",), "both": ("mirrored", "turned")}
FEWER = 10  # photos that strangers are laid among


@dataclass(frozen=True)
class Annotated:
    """One photo with its entry of keypoints.json."""

    pixels: np.ndarray
    entry: dict

    def mirrored(self) -> "Annotated":
        """The photo left to right, and what is annotated with it."""
        last = self.pixels.shape[1] - 1
        return self._changed(self.pixels[:, ::-1], lambda x, y: (last - x, y))

    def turned(self, quarters: int) -> "Annotated":
        """The photo turned counter-clockwise, and what is annotated with it."""
        photo = self
        for _ in range(quarters):
            last = photo.pixels.shape[1] - 1
            photo = photo._changed(np.rot90(photo.pixels), lambda x, y, last=last: (y, last - x))
        return photo

    def _changed(self, pixels: np.ndarray, move) -> "Annotated":
        points = {
            name: None if point is None else [*move(*point[:2]), *point[2:]]
            for name, point in self.entry["keypoints"].items()
        }
        box = np.array([move(*self.entry["bbox"][:2]), move(*self.entry["bbox"][2:])])
        entry = {"bbox": [*box.min(0).tolist(), *box.max(0).tolist()], "keypoints": points}
        return Annotated(pixels, {**self.entry, **entry, "size": [pixels.shape[1], pixels.shape[0]]})


def photos_of(folder: Path) -> list[Annotated]:
    """The photos of a set, upright."""
    entries = json.loads((folder / "keypoints.json").read_text("utf-8"))["images"]
    return [Annotated(pixels_of(folder / entry["file"]), entry) for entry in entries]


def pixels_of(path: Path) -> np.ndarray:
    """(h, w, 3) uint8."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def written(photos: list[Annotated], folder: Path) -> KeypointSet:
    """A set of its own in a folder."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for number, photo in enumerate(photos):
        file = f"images/{number:02d}.png"
        Image.fromarray(np.ascontiguousarray(photo.pixels)).save(folder / file, compress_level=1)
        entries.append({**photo.entry, "file": file})
    (folder / "keypoints.json").write_text(json.dumps({"images": entries}), "utf-8")
    return load_keypoint_set(folder)


def changed(photos: list[Annotated], how: tuple[str, ...]) -> list[Annotated]:
    """Every other photo mirrored and every third turned, each where it is asked for."""
    found = []
    for number, photo in enumerate(photos):
        if "mirrored" in how and number % 2:
            photo = photo.mirrored()
        if "turned" in how and number % 3 == 1:
            photo = photo.turned(1 + number // 3 % 3)
        found.append(photo)
    return found


def aligned(folder: Path, seed: int, *, found: bool) -> asic3d.Alignment:
    """The photos of a folder, with all that is to be found out about them, or nothing of it."""
    config = asic3d.make_config(backbone="efficientnet-lite0", seed=seed, turns=found, flips=found, outliers=found)
    return asic3d.align(asic3d.load_collection(folder), config)


def percent(alignment: asic3d.Alignment, truth: KeypointSet) -> float:
    """PCK@0.1 of the annotated photos."""
    return 100 * evaluate_keypoints(named_transfer(alignment.transfer, truth), truth, cycles=1)["pck@0.1"]


def orientation_rows(folders: list[Path], seed: int) -> Iterator[tuple[str, list[float]]]:
    """For each variant and set: PCK with and without."""
    for folder in folders:
        row = []
        for how in VARIANTS.values():
            with tempfile.TemporaryDirectory() as place:
                truth = written(changed(photos_of(folder), how), Path(place) / "set")
                row += [percent(aligned(truth.photo_folder, seed, found=found), truth) for found in (True, False)]
        yield folder.name, row


def stranger_rows(folders: list[Path], others: list[Path], seed: int, draws: int) -> Iterator[tuple[str, list[float]]]:
    """For each set how many strangers were named, of how many, and how many of its own; PCK of the ten.

    The last three are PCK of the ten alone, with the strangers, and where these have their say.
    """
    for folder in folders:
        rows = [_among_strangers(folder, others, seed, draw) for draw in range(draws)]
        yield folder.name, [*np.sum([row[:3] for row in rows], 0), *np.mean([row[3:] for row in rows], 0)]


def _among_strangers(folder: Path, others: list[Path], seed: int, draw: int) -> list[float]:
    random = np.random.default_rng([seed, draw])
    photos = photos_of(folder)
    kept = sorted(random.choice(len(photos), min(FEWER, len(photos)), replace=False).tolist())
    pool = [other for other in others if _kind(other) != _kind(folder)]
    with tempfile.TemporaryDirectory() as place:
        truth = written([photos[index] for index in kept], Path(place) / "set")
        images = truth.photo_folder
        alone = percent(aligned(images, seed, found=True), truth)
        strangers = []
        for number, index in enumerate(random.choice(len(pool), 2, replace=False).tolist()):
            pictures = _files(pool[index])
            name = f"stranger{number}.png"
            Image.fromarray(pixels_of(pictures[random.integers(len(pictures))])).save(images / name)
            strangers.append(name)
        found, without = (aligned(images, seed, found=found) for found in (True, False))
        named = [name in strangers for name in found.outliers]
        return [
            sum(named),
            len(strangers),
            len(named) - sum(named),
            alone,
            percent(found, truth),
            percent(without, truth),
        ]


def _kind(folder: Path) -> str:
    return folder.name.split("_")[0]


def _files(folder: Path) -> list[Path]:
    """The photos of a folder, or of the folder ``images`` in it."""
    inside = folder / "images" if (folder / "images").is_dir() else folder
    return sorted(path for path in inside.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))


def main() -> None:
    """Prints two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path, metavar="SET", help="folder with keypoints.json")
    parser.add_argument(
        "--strangers", nargs="*", default=[], type=Path, metavar="PHOTOS", help="folders of other things"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=2, help="how often strangers are drawn for each set")
    arguments = parser.parse_args()
    print(f"| set | {' | '.join(VARIANTS)} |\n|---|{'---|' * len(VARIANTS)}")
    rows = []
    for name, row in orientation_rows(arguments.sets, arguments.seed):
        rows.append(row)
        _print_orientations(name, row)
    _print_orientations(f"mean of {len(rows)}", np.mean(rows, 0).tolist())
    print(
        "\n| set | strangers named | own photos named | alone | with strangers | outliers=false |\n" + "|---" * 6 + "|"
    )
    rows = []
    others = [*arguments.sets, *arguments.strangers]
    for name, row in stranger_rows(arguments.sets, others, arguments.seed, arguments.draws):
        rows.append(row)
        _print_strangers(name, row)
    totals = [*np.sum(rows, 0)[:3], *np.mean(rows, 0)[3:]]
    _print_strangers(f"sum or mean of {len(rows)}", totals)


def _print_orientations(name: str, row: list[float]) -> None:
    cells = (f"{found:.1f} ({without:.1f})" for found, without in zip(row[::2], row[1::2], strict=True))
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _print_strangers(name: str, row: list[float]) -> None:
    named, strangers, own, *pck = row
    shares = " | ".join(f"{value:.1f}" for value in pck)
    print(f"| {name} | {named:.0f} of {strangers:.0f} | {own:.0f} | {shares} |", flush=True)


if __name__ == "__main__":
    main()
