"""The run folder on disk: an alignment saved and loaded again. Everything in a file is checked before it is used."""

import dataclasses
import hashlib
import os
import platform
import warnings
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
from asic3d.collection import AbsentPhoto, Collection, Photo, load_photo
from asic3d.correspondences import CanonicalSpace, canonical_space
from asic3d.errors import CollectionError, CollectionWarning, StorageError
from asic3d.journal import write_together
from asic3d.optimisation import COLUMNS, Trained
from asic3d.photo_folder import shown
from asic3d.run_facts import RunFacts
from asic3d.run_lock import claim_run, settle_run
from asic3d.run_products import set_aside, tell_aside
from asic3d.scratch import Shelf, forget, scratch
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
_PHOTOS = 64
"""Photos whose features are unpacked or checked at once."""
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
        tell_aside(_write_all(alignment, folder, others))


def _check_unchanged(alignment: Alignment, folder: Path) -> None:
    """Refuses to write over what somebody else has changed since the alignment was read from there."""
    found = _tensors_of(folder)  # gone or damaged: nothing can be lost
    if alignment.origin is not None and _is_from(alignment, folder) and found not in (None, alignment.origin.tensors):
        raise StorageError(
            f"The run in '{folder}' was changed by somebody else since it was loaded: nothing was written. Load it "
            "again and repeat what you did."
        )


def _is_from(alignment: Alignment, folder: Path) -> bool:
    """Whether an alignment was read from this run folder, and is that run or more of it."""
    return alignment.origin is not None and alignment.origin.folder == folder.resolve()


def _tensors_of(folder: Path) -> str | None:
    """SHA-256 of the tensors of the run in a folder; None where no run can be read."""
    try:
        found = read_run(folder).get("tensors_sha256")
    except StorageError:
        return None
    return found if isinstance(found, str) else None


def _write_all(alignment: Alignment, folder: Path, others: Mapping[str, bytes]) -> dict[Path, Path]:
    """Writes a run, and sets aside what was made from another one that it replaces: file -> where it is now."""
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
    replaced = (folder / RUN_FILE).is_file() and digest != _tensors_of(folder) and not _is_from(alignment, folder)
    aside = set_aside(folder, {Path(name).parts[0] for name in others}) if replaced else {}
    write_together(files, folder=folder, without=sorted(stale), aside=aside)
    if alignment.origin is not None and _is_from(alignment, folder):
        alignment.origin.tensors = digest
    return aside


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
        return set(_mask_files(folder, [entry["name"] for entry in RunFacts(folder).photos()]))
    except StorageError:
        return set()


def _tensors(alignment: Alignment) -> dict[str, Tensor]:
    space, placing, features = alignment.space, alignment.placing, alignment.features
    return {
        "descriptors": space.descriptors.half(),
        "canonical": space.canonical,
        "foreground": space.foreground,
        "valid": space.valid,
        "features": _copied(features, torch.empty(features.shape, dtype=torch.float16)),
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


def read_alignment(folder: Path, photos: Path | None = None) -> Alignment:
    """The opposite of :func:`save_alignment`; a photo that is gone is warned of.

    Args:
        folder: the run folder.
        photos: the folder where the photos are now; None: where they were.

    Raises:
        StorageError: no finished run, a damaged one, or one of a newer asic3d.
        CollectionError: a photo has changed since the run, or there is no such folder of photos.
    """
    settle_run(folder)
    facts = RunFacts(folder)
    config, entries = facts.config(), facts.photos()
    facts.check_versions()
    collection = _load_photos(facts, photos)
    trained = config.mapping == "network" or config.refine_steps > 0
    tensors = _read_tensors(facts, len(collection), _TRAINED if trained else {})
    count, features = len(collection), tensors.pop("features")
    all_pairs = count * (count - 1) // 2
    places = (tensors["canonical"], tensors["foreground"], tensors["valid"])
    if config.mapping == "network":
        space = canonical_space(*places)
    else:
        space = CanonicalSpace(tensors["descriptors"].float(), *places, config.transfer_prior, learned=True)
    return Alignment(
        collection=collection,
        config=config,
        space=space,
        features=_copied(features, scratch(features.shape)),
        confidence=tensors["confidence"].reshape(count, space.grid, space.grid),
        masks=tuple(tensors[f"mask{i}"].numpy().astype(np.float32) / 255 for i in range(count)),
        placing=Placing(
            tuple(tensors[f"centre{i}"] for i in range(facts.whole_number("taps", 1000))),
            tensors["projection"],
            tensors["mean"],
            tensors["classifier"],
            config.weights,
        ),
        quality=facts.numbers("quality"),
        timings=facts.numbers("seconds"),
        warnings=facts.texts("warnings"),
        backbone=facts.backbone(),
        device=facts.device(),
        trained=Trained(tensors["image"], tensors["losses"]) if trained else None,
        turns=tuple(entry.get("turned", 0) for entry in entries),
        mirrored=tuple(entry.get("mirrored", False) for entry in entries),
        outliers=tuple(entry["name"] for entry in entries if entry.get("outlier")),
        pairs=facts.whole_number("pairs", all_pairs, default=all_pairs),
        origin=Origin(folder.resolve(), facts.text("tensors_sha256")),
    )


def _copied(values: Tensor, into: Tensor) -> Tensor:
    """Values of N photos, one or both perhaps in a file, in another precision."""
    for place, some in zip(into.split(_PHOTOS), values.split(_PHOTOS), strict=True):
        place.copy_(some)
        forget()
    return into


def _read_tensors(facts: RunFacts, count: int, others: _Expected) -> dict[str, Tensor]:
    grid, path = facts.whole_number("grid", 256), facts.folder / TENSORS
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
    expected |= {f"centre{i}": (torch.float32, (None,)) for i in range(facts.whole_number("taps", 1000))}
    expected |= {f"mask{i}": (torch.uint8, (None, None)) for i in range(count)}
    tensors = read_safetensors(path, expected, remedy=ALIGN_AGAIN)
    _check_values(tensors, facts)
    channels = len(tensors["mean"])
    if len(tensors["classifier"]) != channels + 1 or any(not tensors[f"mask{i}"].numel() for i in range(count)):
        raise facts.damaged(f"'{TENSORS}' does not fit together")
    if sha256_of(path) != facts.text("tensors_sha256"):
        raise facts.damaged(f"'{TENSORS}' is not the file that was saved with it")
    return tensors


def _check_values(tensors: dict[str, Tensor], facts: RunFacts) -> None:
    """Refuses finite numbers that no alignment has: they would come out as points and pictures without a meaning."""
    for name in ("confidence", "foreground"):
        if not bool(((tensors[name] >= 0) & (tensors[name] <= 1 + _ROUNDED)).all()):
            raise facts.damaged(f"its '{name}' does not lie between 0 and 1")
    if bool((tensors["canonical"].abs() > _FARTHEST).any()):
        raise facts.damaged(f"its 'canonical' holds coordinates beyond {_FARTHEST}")
    for name in ("descriptors", "features"):
        for some in tensors[name].split(_PHOTOS) if tensors[name].shape[2] else ():
            if bool(((some.float().norm(dim=2) - 1).abs() > _ROUNDING).any()):
                raise facts.damaged(f"its '{name}' are not of unit length")


def _load_photos(facts: RunFacts, moved: Path | None) -> Collection:
    root = _photo_folder(facts, moved)
    shelf = Shelf()
    photos = tuple(_load_photo(entry, root, facts.folder, moved is not None, shelf) for entry in facts.photos())
    collection = Collection(root, photos, facts.named_texts("left_out"), facts.texts("collection_warnings"))
    if collection.absent:
        their = "its" if len(collection.absent) == 1 else "their"
        said = f"{collection.gone()} Until then what needs {their} pixels is left out."
        warnings.warn(said, CollectionWarning, stacklevel=4)
    return collection


def _photo_folder(facts: RunFacts, moved: Path | None) -> Path:
    """Where the photos are said to be; else where they were, or, when they moved with the run, are from here."""
    if moved is not None:
        if not _is_there(moved.is_dir):
            raise CollectionError(f"There is no folder '{moved}'. Give the folder that holds the photos of the run.")
        return moved.absolute()
    root, from_here = Path(facts.text("photo_folder")), facts.text("photo_folder_from_here")
    if _is_there(root.is_dir):
        return root
    try:
        return (facts.folder / from_here).resolve()
    except (OSError, ValueError, RuntimeError):  # no path at all, or a link that leads to itself
        raise facts.damaged("its 'photo_folder_from_here' is no path") from None


def _is_there(look: Callable[[], bool]) -> bool:
    """What ``look`` says; False where looking is not permitted, or the path is longer than paths can be."""
    try:
        return look()
    except (OSError, ValueError):
        return False


def _load_photo(entry: dict[str, Any], root: Path, folder: Path, moved: bool, shelf: Shelf) -> Photo:
    """A photo of the run, in the photo folder or where it was added from; absent where it is in neither."""
    name, size = entry["name"], (entry["size"][0], entry["size"][1])
    mask = inside(folder, f"{MASKS}/{name}.png") if entry.get("mask_given") is True else None
    places = [inside(root, name, follow_links=True)]
    if "path" in entry:
        places.insert(len(places) if moved else 0, Path(entry["path"]))
    path = next((place for place in places if _is_there(place.is_file)), None)
    if path is None:
        return AbsentPhoto(name, places[0], size, entry["sha256"], entry.get("duplicate_of"))
    photo = load_photo(path, name=name, mask=mask)
    if photo.sha256 != entry["sha256"] or photo.size != size:
        raise CollectionError(f"The photo {shown(name)} has changed since this run; align again with --overwrite.")
    return dataclasses.replace(photo, duplicate_of=entry.get("duplicate_of"), pixels=shelf.put(photo.pixels))
