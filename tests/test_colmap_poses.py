"""Cameras from photos alone, end to end, on rendered photos whose cameras are known."""

import numpy as np
import pytest

from asic3d.collection import load_collection
from asic3d.metrics import score_poses
from asic3d.rendering import render_collection
from asic3d_integrations.colmap import refined
from asic3d_integrations.colmap.coarse import coarse_backbones
from asic3d_integrations.colmap.poses import PoseOptions, find_poses
from asic3d_integrations.colmap.refined import RefineOptions
from asic3d_integrations.colmap.sift import sift_graph
from asic3d_integrations.colmap.working import working_photo

pycolmap = pytest.importorskip("pycolmap")


def test_sift_tells_that_it_begins_and_what_it_has_done(tmp_path, monkeypatch):
    render_collection(2, seed=0).save(tmp_path)
    photos = load_collection(tmp_path / "images").photos
    events = []
    for name in ("extract_features", "match_exhaustive"):
        done = getattr(pycolmap, name)
        monkeypatch.setattr(
            pycolmap, name, lambda *args, name=name, done=done, **given: (events.append(name), done(*args, **given))
        )
    graph = sift_graph(photos, [working_photo(photo) for photo in photos], told=lambda *told: events.append(told))
    assert events == [(0, 2), "extract_features", (1, 2), "match_exhaustive", (2, 2)]
    assert len(graph.matches[0, 1]) > 10


def test_all_cameras_of_ten_rendered_photos_are_found_and_trusted(tmp_path, monkeypatch):
    made = render_collection(10, seed=0)
    made.save(tmp_path)
    # One reading of the network of two, fewer partners and no search for turned photos: half the time.
    monkeypatch.setattr(refined, "coarse_backbones", lambda device: coarse_backbones(device)[:1])
    options = PoseOptions(RefineOptions(partners=3, sift=False, turns=False), gate=False)
    found = find_poses(load_collection(tmp_path / "images"), options)
    assert found.source == "flow" and sorted(found.mapped.poses) == sorted(made.names)
    poses = [found.mapped.poses[name] for name in made.names]
    truth = [(photo.R, photo.t) for photo in made.photos]
    score = score_poses(*[np.stack(values) for stacks in (poses, truth) for values in zip(*stacks, strict=True)])
    assert score.registered == 10 and score.median(score.rotation) < 1
    assert found.mapped.verdict.trusted and found.mapped.verdict.excess < 1.2
