"""Everything that the documentation names, written into a folder: photos, masks, annotated sets, cameras, a network."""

import json
import shutil
from pathlib import Path

import miniature_sets
import numpy as np
import pycolmap
from PIL import Image
from safetensors.torch import save_file

from asic3d import backbones
from asic3d.rendering import RenderedCollection, render_collection
from asic3d.storage import write_json
from asic3d_integrations.colmap.nerfstudio import write_nerfstudio
from asic3d_integrations.keypoint_sets import load_keypoint_set


def write_world(folder: Path) -> None:
    """What every page may take for granted."""
    rendered = render_collection(4, seed=2, size=(240, 180))
    rendered.save(folder / "rendered_once")
    images, masks = folder / "rendered_once" / "images", folder / "rendered_once" / "masks"
    for place in ("your/photos", "masks"):
        (folder / place).mkdir(parents=True)
    for letter, name in zip("abc", rendered.names, strict=False):
        shutil.copy(images / name, folder / "your" / "photos" / f"{letter}.jpg")
        shutil.copy(masks / f"{name}.png", folder / "masks" / f"{letter}.jpg.png")
    for name in ("clock", "vase"):
        shutil.copytree(folder / "your" / "photos", folder / "collections" / name)
    shutil.copy(images / rendered.names[3], folder / "new.jpg")
    Image.new("RGBA", (240, 180), (255, 0, 0, 90)).save(folder / "edit.png")
    (folder / "points.csv").write_text("x,y\n120,80\n90,70\n")
    write_masks_of_others(folder)
    render_collection(3, seed=3, size=(160, 120)).save(folder / "cows")
    cows = load_keypoint_set(folder / "cows")
    miniature_sets.write_spair(folder / "SPair-71k", cows)
    miniature_sets.write_cub(folder / "CUB_200_2011", cows)
    miniature_sets.write_pf_willow(folder / "PF-dataset", cows)
    miniature_sets.write_samurai(folder / "samurai", cows)
    write_known_model(folder, rendered)
    shutil.rmtree(folder / "rendered_once")


def write_known_model(folder: Path, rendered: RenderedCollection) -> None:
    """The true cameras of your/photos as cameras.json and as a model of COLMAP; a database of COLMAP's with them."""
    cameras, model = [], pycolmap.Reconstruction()
    (folder / "project").mkdir()
    with pycolmap.Database.open(folder / "project" / "database.db") as database:
        for number, (letter, photo) in enumerate(zip("abc", rendered.photos, strict=False), 1):
            name = f"{letter}.jpg"
            cameras.append({"file": name, "K": photo.K.tolist(), "R": photo.R.tolist(), "t": photo.t.tolist()})
            camera = pycolmap.Camera.create_from_model_name(number, "PINHOLE", photo.K[0, 0], *photo.size)
            image = pycolmap.Image(name=name, camera_id=number, image_id=number)
            database.write_camera(camera, use_camera_id=True)
            database.write_image(image, use_image_id=True)
            model.add_camera_with_trivial_rig(camera)
            pose = pycolmap.Rigid3d(pycolmap.Rotation3d(photo.R), photo.t)
            model.add_image_with_trivial_frame(image, pose)
    (folder / "cameras.json").write_text(json.dumps({"images": cameras}))
    (folder / "known" / "sparse" / "0").mkdir(parents=True)
    model.write_binary(folder / "known" / "sparse" / "0")


def write_masks_of_others(folder: Path) -> None:
    """Cut-outs as rembg makes them, and arrays as SAM does, of the masks."""
    for place in ("cutouts", "sam"):
        (folder / place).mkdir()
    for path in (folder / "masks").iterdir():
        mask, name = Image.open(path), path.name.removesuffix(".png")
        cutout = Image.open(folder / "your" / "photos" / name).convert("RGBA")
        cutout.putalpha(mask)
        cutout.save(folder / "cutouts" / f"{Path(name).stem}.png")
        np.save(folder / "sam" / f"{name}.npy", np.asarray(mask) > 127)


def write_record(place: Path) -> None:
    """What a batch leaves for programs."""
    finished = {"state": "finished", "photos": 3, "quality": {"confidence": 0.5}, "warnings": []}
    records = {"clock": finished, "vase": {"state": "failed", "error": "There is no photo."}}
    write_json(place / "runs" / "batch.json", {"format_version": 1, "collections": records})


def write_export(place: Path) -> None:
    """What an export of the known cameras holds for nerfstudio."""
    (place / "asic3d_out" / "colmap").mkdir()
    model = pycolmap.Reconstruction(place / "known" / "sparse" / "0")
    write_nerfstudio(model, place / "asic3d_out" / "colmap", place / "your" / "photos")


def write_untrained_network(place: Path) -> None:
    """Weights of a network of timm, at random."""
    save_file(backbones.import_timm().create_model("resnet10t").state_dict(), place / "resnet10t.safetensors")


def prepare(page: str, place: Path) -> None:
    """What the snippets of single pages find besides the world."""
    if page == "docs/how-to/nerfstudio.md":
        write_export(place)
    elif page == "docs/how-to/backbone.md":
        write_untrained_network(place)
    elif page == "docs/how-to/many-collections.md":
        write_record(place)
