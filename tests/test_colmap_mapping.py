"""Poses out of planted scenes, how models are joined, and that the self-check tells right models from wrong ones."""

from dataclasses import replace

import numpy as np
import pytest
from colmap_scene import scene

from asic3d.metrics import score_poses
from asic3d.tracks import MatchGraph, graph_of_tracks
from asic3d_integrations.colmap import certainty, mapping
from asic3d_integrations.colmap.cameras import Camera, Cameras
from asic3d_integrations.colmap.certainty import direction_error
from asic3d_integrations.colmap.mapping import GLOBAL, MapOptions, Mapped, map_graph
from asic3d_integrations.colmap.self_check import edges_of_matches, judge

pytest.importorskip("pycolmap")
SIZE = (640, 480)


def planted(seed: int = 0):
    """A graph of five photos, cameras of the true focal lengths, and the true poses."""
    graph, cameras, _ = scene(seed)
    known = tuple(Camera("SIMPLE_PINHOLE", camera.size, float(camera.K[0, 0]), True) for camera in cameras)
    return graph, Cameras(known, tuple(range(len(known)))), [(camera.R, camera.t) for camera in cameras]


def errors(mapped: Mapped, names, truth):
    """Scores over all pairs; photos without a pose count as wrong."""
    nothing = np.full((3, 3), np.nan), np.full(3, np.nan)
    found = [mapped.poses.get(name, nothing) for name in names]
    stacks = [np.stack(values) for poses in (found, truth) for values in zip(*poses, strict=True)]
    return score_poses(*stacks)


def test_a_planted_scene_is_found_and_trusted_and_repeats():
    graph, cameras, truth = planted()
    edges = edges_of_matches(graph)
    mapped, again = (map_graph(graph, cameras, edges) for _ in range(2))
    score = errors(mapped, graph.names, truth)
    assert score.registered == 5 and mapped.unregistered == {}
    assert score.median(score.rotation) < 1 and score.auc(5) > 0.8
    assert mapped.verdict.trusted and mapped.verdict.words.startswith("These poses look right. 100% of 10 pairs")
    assert mapped.verdict.fitting == 1 and mapped.verdict.judged == 1
    assert all((mapped.poses[name][0] == again.poses[name][0]).all() for name in graph.names)


def test_the_global_mapper_finds_a_planted_scene_in_one_go():
    graph, cameras, truth = planted()
    edges = edges_of_matches(graph)
    mapped, again = (map_graph(graph, cameras, edges, MapOptions(mapper=GLOBAL)) for _ in range(2))
    score = errors(mapped, graph.names, truth)
    assert score.registered == 5 and score.median(score.rotation) < 1
    assert mapped.verdict.trusted and len(mapped.facts["tried"]) == 1
    assert all((mapped.poses[name][0] == again.poses[name][0]).all() for name in graph.names)


def test_models_of_exchanged_photos_are_not_trusted():
    graph, cameras, _ = planted()
    edges = edges_of_matches(graph)
    order = [1, 2, 0, 4, 3]  # whose points each photo is given
    changed = tuple(
        graph.keypoints[k][: len(graph.keypoints[i])]
        if len(graph.keypoints[k]) >= len(graph.keypoints[i])
        else np.resize(graph.keypoints[k], graph.keypoints[i].shape)
        for i, k in enumerate(order)
    )
    limits = [np.array(size) - 1 for size in graph.sizes]
    changed = tuple(np.minimum(p, m).astype(np.float32) for p, m in zip(changed, limits, strict=True))
    mapped = map_graph(replace(graph, keypoints=changed), cameras, edges, MapOptions(thorough=False))
    assert not mapped.verdict.trusted
    assert mapped.verdict.words.startswith("Do not trust these poses.")


def test_a_wrong_focal_length_contradicts_the_pairs():
    graph, cameras, _ = planted()
    wrong = tuple(replace(camera, focal=0.3 * camera.focal) for camera in cameras.cameras)
    right = map_graph(graph, cameras, edges_of_matches(graph)).reconstructions[0]
    from asic3d_integrations.colmap.self_check import judge

    for number, camera in right.cameras.items():
        camera.params = [wrong[number - 1].focal, *camera.params[1:]]
    verdict = judge(right, graph, edges_of_matches(graph))
    assert not verdict.trusted and verdict.fitting < 0.5


def test_a_model_of_few_of_the_photos_is_not_trusted_and_the_others_have_reasons():
    graph, cameras, _ = planted()
    edges = edges_of_matches(graph)
    inside = {pair: rows for pair, rows in graph.matches.items() if set(pair) <= {0, 1, 2}}
    rows = graph.tracks[np.isin(graph.tracks[:, 1], [0, 1, 2])]
    mapped = map_graph(replace(graph, matches=inside, tracks=rows), cameras, edges, MapOptions(thorough=False))
    assert mapped.verdict.photos == 3 and not mapped.verdict.trusted
    assert "pairs of photos that show the same side are in the model" in mapped.verdict.words
    assert sorted(mapped.unregistered) == ["view_3.jpg", "view_4.jpg"]
    assert "too little of it" in mapped.unregistered["view_3.jpg"]


def test_without_matches_there_is_no_model_and_no_crash():
    graph, cameras, _ = planted()
    empty = MatchGraph(graph.names, graph.sizes, graph.keypoints, {})
    mapped = map_graph(empty, cameras, (), MapOptions(thorough=False))
    assert mapped.reconstructions == () and mapped.poses == {}
    assert mapped.verdict.words == "Do not trust these poses. No two photos could be brought together."
    assert len(mapped.unregistered) == 5 and "take one from in between" in mapped.unregistered["view_0.jpg"]


def ring(groups, per_group: int = 150, focal: float = 1800.0):
    """Photos around a ball, a photo each 18 degrees; each point is seen by the photos of one group alone."""
    generator = np.random.default_rng(0)
    count = max(max(group) for group in groups) + 1
    truth, rows = [], []
    for photo in range(count):
        angle = np.radians(18 * photo)
        rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
        truth.append((rotation, np.array([0.02 * photo, 0, 9.0])))
    for number, group in enumerate(groups):
        centre = np.radians(-18 * np.mean(group) - 90)
        azimuth = centre + generator.uniform(-0.7, 0.7, per_group)
        height = generator.uniform(-0.7, 0.7, per_group)
        points = np.stack([np.cos(azimuth), height, np.sin(azimuth)], 1)
        points /= np.linalg.norm(points, axis=1)[:, None]
        for photo in group:
            rotation, translation = truth[photo]
            seen = points @ rotation.T + translation
            pixels = focal * seen[:, :2] / seen[:, 2:] + (np.array(SIZE) - 1) / 2
            pixels += generator.normal(scale=0.2, size=pixels.shape)
            rows += [(number * per_group + k, photo, *pixels[k]) for k in range(per_group)]
    names = tuple(f"{photo}.png" for photo in range(count))
    graph = graph_of_tracks(names, (SIZE,) * count, np.array(rows), 1.0)
    cameras = Cameras((Camera("SIMPLE_RADIAL", SIZE, focal, True),), (0,) * count)
    return graph, cameras, truth


def test_parts_that_share_one_photo_are_joined_and_it_is_said():
    graph, cameras, truth = ring([(0, 1, 2), (2, 3, 4)])
    mapped = map_graph(graph, cameras, edges_of_matches(graph))
    score = errors(mapped, graph.names, truth)
    assert score.registered == 5
    assert score.median(score.rotation) < 1.5 and score.auc(30) > 0.85
    assert "their relative size is a guess" in mapped.verdict.words
    alone = map_graph(graph, cameras, edges_of_matches(graph), MapOptions(thorough=False))
    assert len(alone.poses) < 5


def test_the_focal_length_is_settled_over_all_parts_whatever_was_guessed():
    graph, cameras, truth = ring([(0, 1, 2), (2, 3, 4)])
    guessed = replace(cameras, cameras=(replace(cameras.cameras[0], focal=768.0, known=False),))
    mapped = map_graph(graph, guessed, edges_of_matches(graph))
    score = errors(mapped, graph.names, truth)
    assert score.registered == 5 and score.median(score.rotation) < 1.5
    (camera,) = mapped.reconstructions[0].cameras.values()
    assert camera.mean_focal_length() == pytest.approx(1800, rel=0.05)


def test_parts_that_hang_on_two_photos_alone_are_not_trusted():
    graph, cameras, _ = ring([(0, 1, 2), (2, 3), (3, 4, 5)])
    mapped = map_graph(graph, cameras, edges_of_matches(graph))
    assert len(mapped.poses) == 6
    assert "One part of it hangs on a single pair of photos, and what third photos show" in mapped.verdict.words
    assert not mapped.verdict.trusted


def test_the_mapping_is_told_as_done_when_it_is_over_and_not_before(monkeypatch):
    told, runs = [], []
    run = mapping._run
    monkeypatch.setattr(mapping, "_run", lambda *words: runs.append(len(told)) or run(*words))
    graph, cameras, _ = planted()
    map_graph(graph, cameras, edges_of_matches(graph), progress=told.append)
    assert runs == [1]  # one attempt of several was enough
    assert [(one.stage, one.done == one.total) for one in told] == [("mapping", False), ("mapping", True)]


def test_photos_without_a_camera_are_told_beside_poses_that_look_right():
    graph, cameras, _ = planted()
    model = map_graph(graph, cameras, edges_of_matches(graph)).reconstructions[0]
    names, sizes, points = (*graph.names, "other.jpg"), (*graph.sizes, SIZE), (*graph.keypoints, graph.keypoints[0][:0])
    verdict = judge(
        model,
        MatchGraph(names, sizes, points, graph.matches, graph.tracks, graph.deviation),
        [*edges_of_matches(graph)],
    )
    assert verdict.trusted and verdict.words.endswith("1 other photo may show another side, or another thing.")


def test_two_photos_are_too_few_for_cameras():
    graph, cameras, _ = planted()
    points = [graph.keypoints[index] for index in (0, 1)]
    two = MatchGraph(graph.names[:2], graph.sizes[:2], tuple(points), {(0, 1): graph.matches[0, 1]})
    mapped = map_graph(two, Cameras(cameras.cameras[:2], (0, 1)), edges_of_matches(two))
    assert mapped.verdict.words.startswith("Do not trust these poses. Cameras need 3 photos: what two show")
    assert mapped.reconstructions == () and mapped.unregistered == {}


def test_the_expected_error_of_directions_is_about_the_true_one():
    graph, cameras, truth = planted()
    guessed = Cameras(tuple(replace(camera, known=False) for camera in cameras.cameras), cameras.of_photo)
    mapped = map_graph(graph, guessed, edges_of_matches(graph))
    score = errors(mapped, graph.names, truth)
    model = mapped.reconstructions[0]
    expected = 0.3 * direction_error(model, known=False)  # the scene's noise, pixels
    assert 0.2 < score.median(score.translation) / expected < 5
    assert direction_error(model, known=True) < direction_error(model, known=False)


@pytest.mark.parametrize(("moved", "known"), [(0.4, False), (float("nan"), False), (1.6, True), (1.6, False)])
def test_directions_that_are_unsure_are_told(monkeypatch, moved, known):
    monkeypatch.setattr(certainty, "direction_error", lambda *_: moved)
    graph, cameras, _ = planted()
    cameras = Cameras(tuple(replace(camera, known=known) for camera in cameras.cameras), cameras.of_photo)
    verdict = map_graph(graph, cameras, edges_of_matches(graph)).verdict
    unsure = "moves the direction from one to another by 1.6 degrees, against less than 0.2 where it is sure."
    assert verdict.trusted
    assert (unsure in verdict.words) == (moved > 1)
    assert ("A known focal length (--focal) makes it surer" in verdict.words) == (moved > 1 and not known)
