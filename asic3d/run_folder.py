"""The run folder on disk: an alignment saved and loaded again. Everything in a file is checked before it is used."""

import dataclasses
import hashlib
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from asic3d.alignment import Alignment, Origin, Placing
from asic3d.collection import Collection, Photo, load_photo
from asic3d.config import AlignmentConfig
from asic3d.correspondences import CanonicalSpace, canonical_space
from asic3d.errors import CollectionError, ConfigError, StorageError
from asic3d.journal import write_together
from asic3d.optimisation import COLUMNS, Trained
from asic3d.photo_folder import shown
from asic3d.run_lock import claim_run, settle_run
from asic3d.storage import (
    ALIGN_AGAIN,
    FORMAT_VERSION,
    RUN_FILE,
    inside,
    json_bytes,
    read_run,
    read_safetensors,
    safetensors_bytes,
    sha256_of,
)

TENSORS = "alignment.safetensors"
MASKS = "masks"
LOSSES = "losses.csv"
_FARTHEST = 1000
"""Canonical coordinates that no photo reaches; the object is about 2 wide."""
_ROUNDING = 0.01  # of unit length, in 16 bits
_ROUNDED = 1e-5  # what a share may have been above 1 in runs of earlier versions
_Expected = dict[str, tuple[torch.dtype, tuple[int | str | None, ...]]]
_TRAINED: _Expected = {"image": (torch.float32, (4, "R", "R")), "losses": (torch.float32, (None, len(COLUMNS)))}
"""The tensors of a run whose maps were trained or refined."""


def save_alignment(
    alignment: Alignment, folder: Path, *, overwrite: bool, others: Mapping[str, bytes] = MappingProxyType({})
) -> None:
    """Writes what belongs to the run besides, masks, tensors and, last, run.json: all of them or none.

    Raises:
        StorageError: a finished run is there and ``overwrite`` is not set, it is not the one that the alignment is
            from, another process is at it, or the folder can't be written.
    """
    with claim_run(folder, overwrite=overwrite):
        _check_unchanged(alignment, folder)
        _write_all(alignment, folder, others)


def _check_unchanged(alignment: Alignment, folder: Path) -> None:
    """Refuses to write over what somebody else has changed since the alignment was read from there."""
    origin = alignment.origin
    if origin is None or origin.folder != folder.resolve():
        return
    try:
        found = read_run(folder).get("tensors_sha256")
    except StorageError:  # gone or damaged: nothing can be lost
        return
    if found != origin.tensors:
        raise StorageError(
            f"The run in '{folder}' was changed by somebody else since it was loaded: nothing was written. Load it "
            "again and repeat what you did."
        )


def _write_all(alignment: Alignment, folder: Path, others: Mapping[str, bytes]) -> None:
    stale = _old_masks(folder)
    tensors = safetensors_bytes(_tensors(alignment))
    files = {inside(folder, name): content for name, content in others.items()}
    for name, path in zip(alignment.names, _mask_files(folder, alignment.names), strict=True):
        files[path] = cv2.imencode(".png", alignment.mask(name))[1].tobytes()
    if alignment.trained is None:
        stale.add(folder / LOSSES)
    else:
        files[folder / LOSSES] = _losses_table(alignment.trained)
    stale -= set(files)
    files[folder / TENSORS] = tensors
    digest = hashlib.sha256(tensors).hexdigest()
    files[folder / RUN_FILE] = json_bytes(_facts(alignment, folder, digest))
    write_together(files, folder=folder, without=sorted(stale))
    if alignment.origin is not None and alignment.origin.folder == folder.resolve():
        alignment.origin.tensors = digest


def _losses_table(trained: Trained) -> bytes:
    """CSV: a row for each iteration, counted from 1."""
    lines = [",".join(["iteration", *COLUMNS])]
    for iteration, row in enumerate(trained.losses.tolist(), 1):
        lines.append(",".join([str(iteration), *(f"{value:.6g}" for value in row)]))
    return ("\n".join(lines) + "\n").encode()


def _mask_files(folder: Path, names: "tuple[str, ...] | list[str]") -> Iterator[Path]:
    """Where each photo's mask lies: ``masks/a.jpg.png`` for ``a.jpg``, as COLMAP's mask path expects it."""
    return (inside(folder, f"{MASKS}/{name}.png") for name in names)


def _old_masks(folder: Path) -> set[Path]:
    """The masks of the run that is replaced; none where it can't be read or names what is no file in the folder."""
    try:
        return set(_mask_files(folder, [_text(photo, "name") for photo in _photos(read_run(folder), folder)]))
    except StorageError:
        return set()


def _tensors(alignment: Alignment) -> dict[str, Tensor]:
    space, placing = alignment.space, alignment.placing
    return {
        "descriptors": space.descriptors.half(),
        "canonical": space.canonical,
        "foreground": space.foreground,
        "valid": space.valid,
        "features": alignment.features.half(),
        "confidence": alignment.confidence.flatten(1),
        "projection": placing.projection,
        "mean": placing.mean,
        "classifier": placing.classifier,
        **{f"centre{i}": centre for i, centre in enumerate(placing.centres)},
        **{
            f"mask{i}": torch.from_numpy(np.round(mask * 255).astype(np.uint8))
            for i, mask in enumerate(alignment.masks)
        },
        **({} if alignment.trained is None else {name: getattr(alignment.trained, name) for name in _TRAINED}),
    }


def _facts(alignment: Alignment, folder: Path, tensors: str) -> dict[str, Any]:
    root = alignment.collection.root
    return {
        "format_version": FORMAT_VERSION,
        "config": dataclasses.asdict(alignment.config),
        "backbone": alignment.backbone,
        "device": alignment.device,
        "photo_folder": str(root.resolve()),
        "photo_folder_from_here": os.path.relpath(root.resolve(), folder.resolve()),
        "photos": [
            {**_photo_facts(photo, root), **_standing(alignment, index)}
            for index, photo in enumerate(alignment.collection.photos)
        ],
        "left_out": alignment.collection.left_out,
        "collection_warnings": alignment.collection.warnings,
        "warnings": alignment.warnings,
        "quality": alignment.quality,
        "seconds": alignment.timings,
        "pairs": alignment.pairs,
        "grid": alignment.space.grid,
        "taps": len(alignment.placing.centres),
        "tensors_sha256": tensors,
        "versions": {"python": platform.python_version(), **_versions("asic3d", "torch", "timm", "numpy")},
    }


def _standing(alignment: Alignment, index: int) -> dict[str, Any]:
    """How a photo stands, where that is not as most others do."""
    facts = {
        "turned": alignment.turns[index] if alignment.turns else 0,
        "mirrored": bool(alignment.mirrored and alignment.mirrored[index]),
        "outlier": alignment.names[index] in alignment.outliers,
    }
    return {name: value for name, value in facts.items() if value}


def _photo_facts(photo: Photo, root: Path) -> dict[str, Any]:
    facts = {"name": photo.name, "size": photo.size, "sha256": photo.sha256, "mask_given": photo.mask is not None}
    if photo.duplicate_of is not None:
        facts["duplicate_of"] = photo.duplicate_of
    if photo.path != root / photo.name:
        facts["path"] = str(photo.path.resolve())  # added from elsewhere
    return facts


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout
            found[package] = "not installed"
    return found


def read_alignment(folder: Path) -> Alignment:
    """The opposite of :func:`save_alignment`.

    Raises:
        StorageError: no finished run, a damaged one, or one of a newer asic3d.
        CollectionError: a photo is gone or has changed since the run.
    """
    settle_run(folder)
    run = read_run(folder)
    try:
        config = AlignmentConfig(**_mapping(run, "config", folder))
    except (ConfigError, TypeError) as error:
        raise _damaged(folder, f"its settings can't be used ({error})") from None
    collection = _load_photos(run, folder)
    trained = config.mapping == "network" or config.refine_steps > 0
    tensors = _read_tensors(run, folder, len(collection), _TRAINED if trained else {})
    count = len(collection)
    places = (tensors["canonical"], tensors["foreground"], tensors["valid"])
    if config.mapping == "network":
        space = canonical_space(*places)
    else:
        space = CanonicalSpace(tensors["descriptors"].float(), *places, config.transfer_prior, learned=True)
    return Alignment(
        collection=collection,
        config=config,
        space=space,
        features=tensors["features"].float(),
        confidence=tensors["confidence"].reshape(count, space.grid, space.grid),
        masks=tuple(tensors[f"mask{i}"].numpy().astype(np.float32) / 255 for i in range(count)),
        placing=Placing(
            tuple(tensors[f"centre{i}"] for i in range(_whole_number(run, "taps", folder, 1000))),
            tensors["projection"],
            tensors["mean"],
            tensors["classifier"],
            config.weights,
        ),
        quality=_numbers(run, "quality", folder),
        timings=_numbers(run, "seconds", folder),
        warnings=_texts(run, "warnings", folder),
        backbone=_text(run, "backbone", folder),
        device=_text(run, "device", folder),
        trained=Trained(**{name: tensors[name] for name in _TRAINED}) if trained else None,
        turns=tuple(_quarters(entry, folder) for entry in _photos(run, folder)),
        mirrored=tuple(_flag(entry, "mirrored", folder) for entry in _photos(run, folder)),
        outliers=tuple(_text(entry, "name") for entry in _photos(run, folder) if _flag(entry, "outlier", folder)),
        pairs=_whole_number(run, "pairs", folder, 10**6) if "pairs" in run else count * (count - 1) // 2,
        origin=Origin(folder.resolve(), _text(run, "tensors_sha256", folder)),
    )


def _quarters(entry: dict[str, Any], folder: Path) -> int:
    turns = entry.get("turned", 0)
    if not isinstance(turns, int) or isinstance(turns, bool) or not 0 <= turns <= 3:
        raise _damaged(folder, f"a photo's 'turned' is {turns!r}")
    return turns


def _flag(entry: dict[str, Any], key: str, folder: Path) -> bool:
    value = entry.get(key, False)
    if not isinstance(value, bool):
        raise _damaged(folder, f"a photo's '{key}' is {value!r}")
    return value


def _read_tensors(run: dict[str, Any], folder: Path, count: int, others: _Expected) -> dict[str, Tensor]:
    grid = _whole_number(run, "grid", folder, 256)
    cells = grid**2
    expected: _Expected = {
        **others,
        "descriptors": (torch.float16, (count, cells, "D")),
        "canonical": (torch.float32, (count, cells, 2)),
        "foreground": (torch.float32, (count, cells)),
        "valid": (torch.bool, (count, cells)),
        "features": (torch.float16, (count, cells, "C")),
        "confidence": (torch.float32, (count, cells)),
        "projection": (torch.float32, ("C", "D")),
        "mean": (torch.float32, ("C",)),
        "classifier": (torch.float64, (None,)),
    }
    expected |= {f"centre{i}": (torch.float32, (None,)) for i in range(_whole_number(run, "taps", folder, 1000))}
    expected |= {f"mask{i}": (torch.uint8, (None, None)) for i in range(count)}
    tensors = read_safetensors(folder / TENSORS, expected, remedy=ALIGN_AGAIN)
    _check_values(tensors, folder)
    channels = len(tensors["mean"])
    if len(tensors["classifier"]) != channels + 1 or any(not tensors[f"mask{i}"].numel() for i in range(count)):
        raise _damaged(folder, f"'{TENSORS}' does not fit together")
    if sha256_of(folder / TENSORS) != run.get("tensors_sha256"):
        raise _damaged(folder, f"'{TENSORS}' is not the file that was saved with it")
    return tensors


def _check_values(tensors: dict[str, Tensor], folder: Path) -> None:
    """Refuses finite numbers that no alignment has: they would come out as points and pictures without a meaning."""
    for name in ("confidence", "foreground"):
        if not bool(((tensors[name] >= 0) & (tensors[name] <= 1 + _ROUNDED)).all()):
            raise _damaged(folder, f"its '{name}' does not lie between 0 and 1")
    if bool((tensors["canonical"].abs() > _FARTHEST).any()):
        raise _damaged(folder, f"its 'canonical' holds coordinates beyond {_FARTHEST}")
    for name in ("descriptors", "features"):
        lengths = tensors[name].float().norm(dim=2)
        if tensors[name].shape[2] and bool(((lengths - 1).abs() > _ROUNDING).any()):
            raise _damaged(folder, f"its '{name}' are not of unit length")


def _load_photos(run: dict[str, Any], folder: Path) -> Collection:
    entries = _photos(run, folder)
    root = _photo_folder(run, folder)
    photos = tuple(_load_photo(entry, root, folder) for entry in entries)
    left_out = _mapping(run, "left_out", folder)
    return Collection(
        root, photos, {str(k): str(v) for k, v in left_out.items()}, _texts(run, "collection_warnings", folder)
    )


def _photo_folder(run: dict[str, Any], folder: Path) -> Path:
    """Where the photos were, or, when run and photos were moved together, where they are from here."""
    root = Path(_text(run, "photo_folder", folder))
    if _is_there(root.is_dir):
        return root
    try:
        return (folder / _text(run, "photo_folder_from_here", folder)).resolve()
    except (OSError, ValueError, RuntimeError):  # no path at all, or a link that leads to itself
        raise _damaged(folder, "its 'photo_folder_from_here' is no path") from None


def _is_there(look: Callable[[], bool]) -> bool:
    """What ``look`` says; False where looking is not permitted, or the path is longer than paths can be."""
    try:
        return look()
    except OSError:
        return False


def _load_photo(entry: dict[str, Any], root: Path, folder: Path) -> Photo:
    name = _text(entry, "name", folder)
    path = Path(_text(entry, "path", folder)) if "path" in entry else inside(root, name, follow_links=True)
    if not _is_there(path.is_file):
        raise CollectionError(
            f"The photo {shown(name)} of this run is gone: there is no file '{path}'. Put it back, or align again."
        )
    mask = inside(folder, f"{MASKS}/{name}.png") if entry.get("mask_given") is True else None
    photo = load_photo(path, name=name, mask=mask)
    if photo.sha256 != entry.get("sha256") or list(photo.size) != entry.get("size"):
        raise CollectionError(f"The photo {shown(name)} has changed since this run; align again with --overwrite.")
    duplicate = entry.get("duplicate_of")
    return dataclasses.replace(photo, duplicate_of=duplicate if isinstance(duplicate, str) else None)


def _photos(run: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    entries = run.get("photos")
    if not isinstance(entries, list) or len(entries) < 2 or not all(isinstance(entry, dict) for entry in entries):
        raise _damaged(folder, "it lists no photos")
    names = [_text(entry, "name", folder) for entry in entries]
    if len(set(names)) < len(names):
        raise _damaged(folder, "it lists a photo twice")
    return entries


def _text(values: dict[str, Any], key: str, folder: Path | None = None) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise _damaged(folder, f"its '{key}' is no text")
    return value


def _texts(values: dict[str, Any], key: str, folder: Path) -> tuple[str, ...]:
    found = values.get(key)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise _damaged(folder, f"its '{key}' is no list of texts")
    return tuple(found)


def _mapping(values: dict[str, Any], key: str, folder: Path) -> dict[str, Any]:
    found = values.get(key)
    if not isinstance(found, dict):
        raise _damaged(folder, f"its '{key}' is missing")
    return found


def _numbers(values: dict[str, Any], key: str, folder: Path) -> dict[str, float]:
    found = _mapping(values, key, folder)
    if not all(isinstance(value, int | float) and abs(value) < 1e300 for value in found.values()):
        raise _damaged(folder, f"its '{key}' holds more than numbers")
    return {name: float(value) for name, value in found.items()}


def _whole_number(values: dict[str, Any], key: str, folder: Path, largest: int) -> int:
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= largest:
        raise _damaged(folder, f"its '{key}' is {value!r}")
    return value


def _damaged(folder: Path | None, why: str) -> StorageError:
    place = f"The run in '{folder}'" if folder else "The run"
    return StorageError(f"{place} is damaged: {why}. {ALIGN_AGAIN}")
