"""A small run that is saved, and what changes or compares runs."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from asic3d.alignment import Alignment, align
from asic3d.collection import load_collection
from asic3d.storage import safetensors_bytes

RUN, TENSORS = "run.json", "alignment.safetensors"
POINTS = [[100, 80], [60.5, 70.25], [-50, 1000]]


def saved(toy, folder: Path) -> tuple[Path, Alignment]:
    """A run of two photos, with its photos beside it: ``photos`` and ``run`` in the folder."""
    (folder / "photos" / "left side").mkdir(parents=True)
    shutil.copy(toy.folder / "images" / "photo_01.jpg", folder / "photos" / "Übersicht 鳥.jpg")
    shutil.copy(toy.folder / "images" / "photo_02.jpg", folder / "photos" / "left side" / "b.jpg")
    config = dataclasses.replace(toy.config, grid=10, channels=16, coarse_channels=16, metric_channels=8)
    alignment = align(load_collection(folder / "photos"), config, cache=toy.cache)
    alignment.save(folder / "run")
    return folder, alignment


def content(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same(one: Alignment, other: Alignment) -> None:
    """Everything that either holds, and what it answers, to the last bit."""
    for part in (lambda a: a, lambda a: a.space, lambda a: a.placing):
        for item in dataclasses.fields(part(one)):
            left, right = getattr(part(one), item.name), getattr(part(other), item.name)
            if isinstance(left, torch.Tensor):
                assert torch.equal(left, right), item.name
            elif item.name in ("masks", "centres"):
                assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True)), item.name
            elif item.name not in ("collection", "space", "placing", "origin"):
                assert left == right, item.name
    for source in one.names:
        for target in one.names:
            for name in ("transfer", "nearest_neighbour"):
                left, right = (getattr(a, name)(POINTS, source=source, target=target) for a in (one, other))
                assert torch.equal(left.points, right.points)
                assert torch.equal(left.confidence, right.confidence)
                assert torch.equal(left.cycle_error, right.cycle_error)
        assert np.array_equal(one.mask(source), other.mask(source))


def change_run(folder: Path, change) -> None:
    run = json.loads((folder / RUN).read_text())
    change(run)
    (folder / RUN).write_text(json.dumps(run))


def change_tensors(folder: Path, **changes) -> None:
    """Replaces tensors (None: leaves them out), and makes run.json agree with the new file."""
    from safetensors.torch import load

    tensors = load((folder / TENSORS).read_bytes())
    tensors = {name: changes[name](tensors[name]) if name in changes else tensors[name] for name in tensors}
    data = safetensors_bytes({name: tensor for name, tensor in tensors.items() if tensor is not None})
    (folder / TENSORS).write_bytes(data)
    change_run(folder, lambda run: run.update(tensors_sha256=hashlib.sha256(data).hexdigest()))


def at_home(folder, photos):
    change_run(folder, lambda run: run.update(photo_folder=str(photos)))
