"""One small aligned collection with known truth, made once for all tests that only read it; and a run to look at."""

import json
import os
import webbrowser
from dataclasses import dataclass
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process for each core, which torch must not fill once more

import numpy as np
import pytest
from chromium_pages import CHROMIUM, Chromium
from colmap_scene import model_of
from hypothesis import settings
from PIL import Image
from planted_alignment import plant

import asic3d
from asic3d.alignment import Alignment, align
from asic3d.collection import Collection, load_collection
from asic3d.config import AlignmentConfig
from asic3d.rendering import RenderedCollection, render_collection
from asic3d.storage import write_json
from asic3d_integrations.colmap import window
from asic3d_integrations.colmap.exported import FORMAT
from asic3d_integrations.keypoint_sets import KeypointSet, load_keypoint_set

settings.register_profile("asic3d", deadline=None)  # how long an example takes says more about the machine
settings.load_profile("asic3d")


@dataclass(frozen=True)
class Toy:
    """Rendered photos, as files and aligned.

    Attributes:
        truth: where every point of every photo is in the others.
        folder: holds ``images`` and ``masks``; tests copy what they want to change.
        cache: folder of the features, so that other alignments of these photos are quick.
    """

    truth: RenderedCollection
    folder: Path
    cache: Path
    collection: Collection
    config: AlignmentConfig
    alignment: Alignment

    def errors(self, alignment: Alignment, transfer) -> np.ndarray:
        """(n,) errors of the keypoints that both photos of a pair show, relative to the target object's longer side.

        Args:
            alignment: says which of the photos are looked at.
            transfer: called as Alignment.transfer.
        """
        found = []
        for source in alignment.names:
            for target in alignment.names:
                if source != target:
                    found.append(self.pair_errors(transfer, source, target))
        return np.concatenate(found)

    def pair_errors(self, transfer, source: str, target: str) -> np.ndarray:
        points, wanted = self.pair(source, target)
        rows, columns = np.nonzero(self.truth.photos[self.truth.names.index(target)].mask)
        found = transfer(points, source=source, target=target).points.numpy()
        return np.linalg.norm(found - wanted, axis=1) / max(np.ptp(rows), np.ptp(columns))

    def pair(self, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
        """(n, 2) pixels each: keypoints that both photos show."""
        one, other = (self.truth.keypoints[self.truth.names.index(name)] for name in (source, target))
        both = (one[:, 2] > 0) & (other[:, 2] > 0)
        return one[both, :2], other[both, :2]


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Toy:
    folder = tmp_path_factory.mktemp("toy")
    truth = render_collection(6, seed=0, size=(240, 180))
    truth.save(folder)
    collection = load_collection(folder / "images")
    config = AlignmentConfig(backbone="efficientnet-lite0", device="cpu")
    cache = folder / "cache"
    return Toy(truth, folder, cache, collection, config, align(collection, config, cache=cache))


@pytest.fixture(scope="session")
def truth(tmp_path_factory) -> KeypointSet:
    """Four rendered photos with keypoints, and one of them hidden in one photo."""
    folder = tmp_path_factory.mktemp("rendered")
    render_collection(4, seed=1, size=(160, 120)).save(folder)
    content = json.loads((folder / "keypoints.json").read_text())
    content["images"][2]["keypoints"][min(content["images"][2]["keypoints"])] = None
    (folder / "keypoints.json").write_text(json.dumps(content))
    return load_keypoint_set(folder)


@pytest.fixture
def mug(tmp_path, monkeypatch):
    """A finished run with cameras, in the working folder."""
    monkeypatch.chdir(tmp_path)
    write_json(tmp_path / "mug" / "run.json", {"format_version": 1})
    model = tmp_path / "mug" / "colmap" / "sparse" / "0"
    model.mkdir(parents=True)
    model_of().write_binary(model)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (400, 300), (0, 0, 255)).save(tmp_path / "photos" / "view_0.jpg")
    report = {"format": FORMAT, "image_folder": str(tmp_path / "photos"), "files": ["sparse", "report.json"]}
    write_json(tmp_path / "mug" / "colmap" / "report.json", report)
    return tmp_path


@pytest.fixture
def no_browser(monkeypatch):
    """No browser is opened; what would be is in the list."""
    opened = []
    monkeypatch.setattr(window, "display_here", lambda: True)
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    return opened


@pytest.fixture
def aligned(mug, monkeypatch):
    """The same run with three photos in it, and how often it was read."""
    read = []
    planted = plant(mug / "planted")
    monkeypatch.setitem(vars(asic3d), "load_alignment", lambda run, photos: read.append(run) or planted)
    return read


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A real browser; a test without one on its machine is skipped."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    chromium = Chromium(tmp_path_factory.mktemp("profile"))
    yield chromium
    chromium.close()
