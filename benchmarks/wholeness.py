"""What a folder holds after a fault, and whether each file in it is whole."""

import contextlib
import hashlib
import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

_OURS = ".asic3d-"


def snapshot(world: Path) -> dict[str, str]:
    """Visible file -> SHA-256 of its bytes."""
    found = {}
    for path in sorted(world.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(world).parts)
        with contextlib.suppress(FileNotFoundError):  # a process whose parent was killed may still be putting away
            if not hidden and path.is_file():
                found[path.relative_to(world).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def leftovers(world: Path) -> list[str]:
    """Temporary files, locks, checkpoints and what SQLite puts beside a database."""
    names = [path.relative_to(world).as_posix() for path in world.rglob("*")]
    endings = (".lock", "-wal", "-shm", "-journal", "checkpoint.safetensors")
    return sorted(name for name in names if _OURS in name or name.endswith(endings))


def answers(run: Path) -> list | str | None:
    """Where a few points of each photo are in the others, rounded; why the run can't be read; None where none is."""
    import asic3d

    if not (run / "run.json").exists():
        return None
    try:
        alignment = asic3d.load_alignment(run)
        found = []
        for source in alignment.names:
            for target in alignment.names:
                points = [[60.0, 50.0], [80.0, 70.0]]
                answer = alignment.transfer(points, source=source, target=target)
                found.append([source, target, answer.points.round(decimals=2).tolist()])
        return found
    except asic3d.errors.Asic3dError as error:
        return str(error)


def why_not_whole(path: Path) -> str:
    """What is wrong with a file; '' where nothing is, or its kind does not tell."""
    content = path.read_bytes()
    try:
        if path.suffix in _READERS:
            return _READERS[path.suffix](path, content) or ""
    except Exception as error:  # readers raise nearly any type on damaged bytes
        return f"{type(error).__name__}: {error}"
    return "" if content else "it is empty"


def _json(path: Path, content: bytes) -> str:
    found = json.loads(content)
    if path.name == "batch.json":
        runs = {name: one["run"] for name, one in found["collections"].items() if one["state"] == "finished"}
        unfinished = [name for name, run in runs.items() if not (path.parent / run / "run.json").is_file()]
        return f"it calls {unfinished} finished" if unfinished else ""
    return ""


def _picture(_: Path, content: bytes) -> None:
    Image.open(io.BytesIO(content)).load()


def _safetensors(_: Path, content: bytes) -> None:
    from safetensors.torch import load

    load(content)


def states(runs: Path) -> dict[str, str]:
    """The state of each collection of a batch; none where there is no batch."""
    if not (runs / "batch.json").is_file():
        return {}
    return {name: one["state"] for name, one in json.loads((runs / "batch.json").read_bytes())["collections"].items()}


def _html(_: Path, content: bytes) -> str:
    return "" if content.rstrip().endswith(b"</html>") else "it does not end"


def _database(path: Path, _: bytes) -> str:
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
        (found,) = database.execute("PRAGMA integrity_check").fetchone()
        database.execute("SELECT COUNT(*) FROM images").fetchone()
    return "" if found == "ok" else found


def _arrays(_: Path, content: bytes) -> None:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        for name in file.files:
            file[name]


def _hdf5(path: Path, _: bytes) -> None:
    import h5py

    with h5py.File(path) as file:
        file.visititems(lambda name, item: None)


def _lines(_: Path, content: bytes) -> str:
    return "" if content.endswith(b"\n") or not content else "its last line does not end"


_READERS = {
    ".json": _json,
    ".png": _picture,
    ".jpg": _picture,
    ".safetensors": _safetensors,
    ".html": _html,
    ".db": _database,
    ".npz": _arrays,
    ".h5": _hdf5,
    ".csv": _lines,
    ".txt": _lines,
}
