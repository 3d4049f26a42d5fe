"""Every kind of file that asic3d reads, with an example of it and what reads it."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import mutated
import numpy as np
import torch
from mutated import Mutate
from PIL import Image

import asic3d
from asic3d.backbones import load_backbone
from asic3d.checkpoints import read_checkpoint
from asic3d.config import AlignmentConfig, make_config
from asic3d.errors import CollectionError
from asic3d.features import extract_features
from asic3d.rendering import render_collection
from asic3d.tracks import MatchGraph
from asic3d_cli.points import read_points
from asic3d_integrations import exporters
from asic3d_integrations.batch.batch import run_batch
from asic3d_integrations.batch.plan import Job
from asic3d_integrations.batch.work import failed
from asic3d_integrations.colmap import adding, exported, models, scene
from asic3d_integrations.colmap.export import ExportOptions, export_colmap
from asic3d_integrations.datasets.cub import read_cub
from asic3d_integrations.datasets.pf_willow import read_pf_willow
from asic3d_integrations.datasets.samurai import read_samurai
from asic3d_integrations.datasets.spair import read_spair
from asic3d_integrations.explorer import read_tracks
from asic3d_integrations.keypoint_sets import evaluate_keypoints, identity_transfer, load_keypoint_set
from asic3d_integrations.reference_cameras import load_cameras

sys.path.append(str(Path(__file__).parents[1] / "tests"))
CONFIG = AlignmentConfig(
    backbone="efficientnet-lite0", device="cpu", grid=12, turns=False, flips=False, outliers=False, affine_rounds=1,
    spline_rounds=1, metric_rounds=1,
)  # fmt: skip
TRAINED = make_config(
    **{**vars(CONFIG), "refine_steps": 6, "checkpoint_every": 2, "working_size": 24, "grid_resolution": 24}
)
_POINTS = [[60.0, 50.0], [80.0, 70.0]]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: how it is called in the table.
        file: the example, relative to the world's folder.
        mutate: what makes another file of it.
        read: reads it, in a world.
        prepare: what else is changed so that the file is looked at; called with the world.
    """

    name: str
    file: str
    mutate: Mutate
    read: Callable[[Path], object]
    prepare: Callable[[Path], None] = lambda world: None


def kinds(world: Path) -> Iterable[Kind]:
    """All kinds; the examples are in a world that :func:`make_world` made."""
    for path in sorted((world / "formats").iterdir()):
        how = mutated.png if path.suffix == ".png" else mutated.bytes_of
        yield Kind(f"photo {path.suffix[1:]}", f"formats/{path.name}", how, lambda w: _use(_photos(w / "formats")))
    yield Kind("mask", "masks/photo_01.jpg.png", mutated.png, lambda w: _use(_photos(w / "photos", w / "masks")))
    yield Kind("run.json", "run/run.json", mutated.json_text, _read_run)
    yield Kind("alignment.safetensors", "run/alignment.safetensors", mutated.safetensors, _read_run, _same_hash)
    yield Kind("a run's mask", "run/masks/photo_01.jpg.png", mutated.png, _read_run)
    yield Kind("checkpoint of the fit", "fit.safetensors", mutated.safetensors, _go_on_fitting)
    yield Kind("checkpoint of a training", "training.safetensors", mutated.safetensors, _go_on_training)
    cached = min((world / "cache/features").iterdir()).name
    yield Kind("cached features", f"cache/features/{cached}", mutated.safetensors, _features)
    for name in ("weights.safetensors", "weights.pth"):
        how = mutated.safetensors if name.endswith("rs") else mutated.bytes_of
        yield Kind(name, name, how, lambda w, name=name: read_checkpoint(w / name))
    yield Kind("database of COLMAP", "export/database.db", mutated.database, _add_to)
    for name in ("images", "cameras", "points3D"):
        yield Kind(f"{name}.bin", f"model/{name}.bin", mutated.bytes_of, _model)
    yield Kind("images.txt", "text_model/images.txt", mutated.text, _text_model)
    yield Kind("an export's report.json", "export/report.json", mutated.json_text, _export)
    yield Kind("batch.json", "batch/batch.json", mutated.json_text, _batch)
    yield Kind("a batch's run.json", "batch/mug/run.json", mutated.json_text, _batch)
    yield Kind("export.json", "csv/export.json", mutated.json_text, _csv)
    yield Kind("tracks.npz", "export/tracks.npz", mutated.bytes_of, _tracks)
    yield Kind("cameras.json", "cameras.json", mutated.json_text, _cameras)
    yield Kind("keypoints.json", "keypoints.json", mutated.json_text, _keypoints)
    yield Kind("config.toml", "config.toml", mutated.text, lambda w: make_config(file=w / "config.toml"))
    yield Kind("points.csv", "points.csv", mutated.text, lambda w: _finite(read_points(w / "points.csv")))
    yield Kind("edit.png", "edit.png", mutated.png, _edit)
    yield from _of_data_sets(world)


def _of_data_sets(world: Path) -> Iterable[Kind]:
    ways = {".json": mutated.json_text, ".txt": mutated.text, ".csv": mutated.text, ".npy": mutated.bytes_of}
    for name, read in (("spair", read_spair), ("cub", read_cub), ("pf", read_pf_willow), ("samurai", read_samurai)):
        files: dict[str, Path] = {}
        for path in sorted((world / name).rglob("*")):
            if path.is_file() and path.suffix not in (".jpg", ".png"):
                key = path.name if path.suffix == ".txt" else f"{path.parent.name}/*{path.suffix}"
                files.setdefault(key, path)
        for key, path in files.items():
            how = ways.get(path.suffix, mutated.bytes_of)
            relative = path.relative_to(world).as_posix()
            yield Kind(f"{name}: {key}", relative, how, lambda w, n=name, r=read: list(r(w / n)))


def make_world(world: Path) -> None:
    """Examples of all kinds."""
    import miniature_sets

    rendered = render_collection(3, seed=0, size=(160, 120))
    rendered.save(world)
    (world / "images").rename(world / "photos")
    for name in ("keypoints", "cameras"):
        text = (world / f"{name}.json").read_text().replace('"images/', '"photos/')
        (world / f"{name}.json").write_text(text)
    collection = asic3d.load_collection(world / "photos", masks=world / "masks")
    align_with(collection, world, CONFIG, "fit")
    alignment = align_with(collection, world, TRAINED, "training")
    alignment.save(world / "run")
    export_colmap(alignment, world / "export", ExportOptions(tracks="canonical", min_views=2))
    exporters.export(alignment, "csv", world / "csv")
    alignment.save(world / "batch" / "mug")
    _batch(world)
    _write_model(world)
    _write_formats(world)
    weights = {"a": torch.randn(4, 3), "b.weight": torch.zeros(2)}
    torch.save({"state_dict": weights}, world / "weights.pth")
    asic3d.storage.write_safetensors(world / "weights.safetensors", weights)
    (world / "config.toml").write_text('preset = "fast"\nseed = 3\ngrid = 30\nturns = false\nbending = 0.01\n')
    (world / "points.csv").write_text("x,y,name\n120,80,nose\n90.5,70,tail\n")
    layer = np.zeros((*alignment.sizes[0][::-1], 4), np.uint8)
    layer[20:60, 30:90] = (255, 0, 0, 200)
    Image.fromarray(layer).save(world / "edit.png")
    truth = load_keypoint_set(world)
    miniature_sets.write_spair(world / "spair", truth)
    miniature_sets.write_cub(world / "cub", truth)
    miniature_sets.write_pf_willow(world / "pf", truth)
    miniature_sets.write_samurai(world / "samurai", truth)


def align_with(collection: asic3d.Collection, world: Path, config: AlignmentConfig, name: str) -> asic3d.Alignment:
    """Aligns with cached features, going on from the checkpoint ``name``, and keeps what was written there first."""
    path, kept = world / f"{name}.safetensors", world / f"{name}.kept"

    def keep(_: object) -> None:
        if path.exists() and not kept.exists():
            shutil.copy(path, kept)

    alignment = asic3d.align(collection, config, cache=world / "cache", checkpoint=path, progress=keep)
    kept.replace(path)
    return alignment


def _write_formats(world: Path) -> None:
    """One photo in each format, with EXIF and a colour profile where the format has them."""
    from PIL import ImageCms

    (world / "formats").mkdir()
    photo = Image.open(world / "photos" / "photo_01.jpg").convert("RGB")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x920A] = 6, "Maker", 50.0
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    with_all = {"exif": exif, "icc_profile": profile}
    options = {"jpg": with_all, "webp": with_all, "tif": {"compression": "tiff_lzw"}, "gif": {}, "bmp": {}}
    options |= {"avif": with_all, "heic": {}} if ".avif" in Image.registered_extensions() else {}
    for ending, saved in options.items():
        try:
            photo.save(world / "formats" / f"{ending}.{ending}", **saved)
        except (KeyError, ValueError, OSError):  # HEIC needs its extra
            (world / "formats" / f"{ending}.{ending}").unlink(missing_ok=True)
    rgba = photo.convert("RGBA")
    rgba.putalpha(Image.open(world / "masks" / "photo_01.jpg.png").convert("L").resize(photo.size))
    rgba.save(world / "formats" / "png.png")
    Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 16).save(world / "formats" / "deep.tiff")


def _write_model(world: Path) -> None:
    from colmap_scene import model_of

    for name, write in (("model", "write_binary"), ("text_model", "write_text")):
        (world / name).mkdir()
        getattr(model_of(), write)(world / name)


def _photos(folder: Path, masks: Path | None = None) -> asic3d.Collection:
    return asic3d.load_collection(folder, masks=masks)


def _use(collection: asic3d.Collection) -> None:
    if collection.left_out:
        raise CollectionError("; ".join(collection.left_out.values()))
    for photo in collection:
        assert photo.pixels.dtype == np.uint8 and max(photo.pixels.shape) <= 1024
        photo.read(512)
        photo.read_mask()


def _finite(values: object) -> None:
    assert np.isfinite(np.asarray(values, float)).all(), "it answers with numbers that are not finite"


def _read_run(world: Path) -> None:
    alignment = asic3d.load_alignment(world / "run")
    for name in alignment.names:
        found = alignment.transfer(_POINTS, source=alignment.names[0], target=name)
        for one in (found.points, found.confidence, found.cycle_error):
            _finite(one)
        assert alignment.mask(name).shape == alignment.collection[name].size[::-1]
    _finite(alignment.canonical_grid.colour)
    alignment.save(world / "again", overwrite=True)


def _same_hash(world: Path) -> None:
    """Lets run.json say that the tensors are its own."""
    run = json.loads((world / "run/run.json").read_text())
    run["tensors_sha256"] = hashlib.sha256((world / "run/alignment.safetensors").read_bytes()).hexdigest()
    (world / "run/run.json").write_text(json.dumps(run))


def _go_on(world: Path, config: AlignmentConfig, name: str) -> None:
    collection = asic3d.load_collection(world / "photos", masks=world / "masks")
    path = world / f"{name}.safetensors"
    alignment = asic3d.align(collection, config, cache=world / "cache", checkpoint=path)
    _finite(alignment.canonical)


def _go_on_fitting(world: Path) -> None:
    _go_on(world, CONFIG, "fit")


def _go_on_training(world: Path) -> None:
    _go_on(world, TRAINED, "training")


def _features(world: Path) -> None:
    collection = asic3d.load_collection(world / "photos")
    maps = extract_features(collection, load_backbone("efficientnet-lite0"), CONFIG, cache=world / "cache")
    _finite(maps.features)


def _add_to(world: Path) -> None:
    points = np.array([[30, 30], [60, 40], [70, 80]], np.float32)
    names, rows = tuple(sorted(path.name for path in (world / "photos").iterdir())), np.array([[0, 0], [1, 1], [2, 2]])
    tracks = np.array([[k, i, k] for k in range(3) for i in range(3)])
    sizes = tuple(Image.open(world / "photos" / name).size for name in names)
    graph = MatchGraph(names, sizes, (points,) * 3, {(0, 1): rows, (1, 2): rows, (0, 2): rows}, tracks, 1.0)
    adding.check_database(world / "export/database.db", names, sizes)
    adding.add_to(world / "export/database.db", graph, {(0, 1): rows, (1, 2): rows}, world / "added.db")


def _model(world: Path, folder: str = "model") -> None:
    model = models.read_model(world / folder)
    models.poses_of(model)
    scene.scene_of(model, world / "photos")


def _text_model(world: Path) -> None:
    _model(world, "text_model")


def _export(world: Path) -> None:
    exported.image_names(world / "export", ("photo_01.jpg",))
    exported.images_of(world / "export/sparse/0")
    exported.refuse_earlier(world / "export", True)


def _batch(world: Path) -> None:
    """One collection that is finished and one that fails."""
    photos, runs = world / "photos", world / "batch"
    jobs = [Job(name, photos, runs / name, TRAINED, masks=world / "masks") for name in ("mug", "<script>vase")]
    records = run_batch(jobs, runs, lambda jobs: [(job, failed("It fell <script>down.")) for job in jobs])
    assert all(record["state"] in ("finished", "failed") for record in records.values())
    assert "<script" not in (runs / "index.html").read_text(), "its page holds a script"


def _csv(world: Path) -> None:
    exporters.export(asic3d.load_alignment(world / "run"), "csv", world / "csv", overwrite=True)


def _tracks(world: Path) -> None:
    names = tuple(sorted(path.name for path in (world / "photos").iterdir()))
    sizes = tuple(Image.open(world / "photos" / name).size for name in names)
    _finite(read_tracks(world / "export/tracks.npz", names, sizes))


def _cameras(world: Path) -> None:
    cameras = load_cameras(world / "cameras.json").of(("photo_01.jpg", "photo_02.jpg"))
    _finite(cameras.R)


def _keypoints(world: Path) -> None:
    found = load_keypoint_set(world)
    assert found.photo_folder and found.photo_names
    evaluate_keypoints(identity_transfer(found), found, cycles=50)


def _edit(world: Path) -> None:
    alignment = asic3d.load_alignment(world / "run")
    for name, layer in alignment.propagate(world / "edit.png", source=alignment.names[0]):
        assert layer.shape[:2] == alignment.collection[name].size[::-1]
