"""The renderer: its truth is what the other tests are measured against, so it is checked against slow references."""

import json

import numpy as np
import pytest
from PIL import Image

from asic3d.errors import ConfigError, StorageError
from asic3d.rendering import render_collection
from asic3d.rendering.meshes import ball, join, superellipse
from asic3d.rendering.rasterising import nearest_along, nearest_at, rasterise
from asic3d.rendering.shading import Layer, compose
from asic3d.rendering.toy import POSES, pose_points, toy_mesh
from asic3d_integrations.keypoint_sets import load_keypoint_set

WHITE = np.ones((4, 4, 3), np.float32)


@pytest.fixture(scope="module")
def rendered():
    return render_collection(4, seed=5, size=(160, 120))


@pytest.fixture(scope="module")
def deformed():
    return render_collection(3, seed=5, size=(160, 120), deformation=1.0)


def first_hit(origin, direction, vertices, faces):
    """Distance along a ray to a mesh, triangle by triangle (Moeller and Trumbore)."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    p = np.cross(direction, c - a)
    area = np.einsum("nk,nk->n", b - a, p)
    area[np.abs(area) < 1e-15] = np.nan
    u = np.einsum("nk,nk->n", origin - a, p) / area
    q = np.cross(origin - a, b - a)
    v = q @ direction / area
    distance = np.einsum("nk,nk->n", c - a, q) / area
    hits = distance[(u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0)]
    return hits.min() if len(hits) else np.inf


def slow_raster(points, nearness, faces, shape):
    """Which face is seen at each pixel, pixel by pixel; -1 for none."""
    seen, best = np.full(shape, -1), np.full(shape, -np.inf)
    for number, face in enumerate(faces):
        a, b, c = points[face]
        m = np.stack([b - a, c - a], 1)
        if np.linalg.det(m) >= 0:
            continue
        for y in range(shape[0]):
            for x in range(shape[1]):
                u, v = np.linalg.solve(m, [x - a[0], y - a[1]])
                near = np.dot([1 - u - v, u, v], nearness[face])
                if min(u, v, 1 - u - v) >= 0 and near > best[y, x]:
                    seen[y, x], best[y, x] = number, near
    return seen, best


def test_the_rasteriser_matches_a_slow_one():
    generator = np.random.default_rng(0)
    points = generator.uniform(-4, 24, (45, 2))
    nearness, faces = generator.uniform(0.1, 1, 45), np.arange(45).reshape(15, 3)
    seen, best = slow_raster(points, nearness, faces, (18, 22))
    fast = rasterise(points, nearness, faces, (18, 22))
    face = np.full(18 * 22, -1)
    face[fast.pixels] = fast.faces
    np.testing.assert_array_equal(face.reshape(18, 22), seen)
    np.testing.assert_allclose(fast.nearness, best)
    assert len(np.unique(seen)) > 5


def test_adjacent_triangles_leave_no_gap_and_a_triangle_off_the_image_is_not_drawn():
    corners = np.array([[-0.5, -0.5], [9.5, -0.5], [9.5, 9.5], [-0.5, 9.5], [50, 50], [60, 50], [50, 60]])
    faces = np.array([[0, 2, 1], [0, 3, 2], [4, 6, 5]])
    drawn = rasterise(corners, np.ones(7), faces, (10, 10))
    assert len(drawn.pixels) == 100
    assert set(drawn.faces.tolist()) == {0, 1}


def test_interpolation_undoes_the_perspective():
    # A plane that recedes: on the surface, its middle is not in the middle of its picture.
    points, depth = np.array([[0.0, 0], [0, 8], [8, 0]]), np.array([1.0, 1.0, 3.0])
    drawn = rasterise(points, 1 / depth, np.array([[0, 1, 2]]), (9, 9))
    along = drawn.interpolate(np.array([[0, 1, 2]]), depth[:, None])[:, 0]
    np.testing.assert_allclose(along, 1 / drawn.nearness.ravel()[drawn.pixels])
    assert along[drawn.pixels == 4] == pytest.approx(1.5)  # half way on the screen: 1 / ((1 + 1/3) / 2)


def test_light_reaches_the_near_side_only():
    near, far = (join([ball((0, 0, z), (0.5, 0, 0), (0.5, 0.5), WHITE)]) for z in (3, 0))
    faces = np.concatenate([near.faces, far.faces + len(near.vertices)])
    light = nearest_along(np.concatenate([near.vertices, far.vertices]), faces, np.array([0.0, 0, 1]), 64)
    points = np.array([[0, 0, 3.5], [0, 0, 2.5], [0, 0, 0.5], [3, 0, 0]])
    assert light.lit(points).tolist() == [1, 0, 0, 1]


def test_meshes_are_closed_and_turned_outward():
    mesh = join([ball((1, 2, 3), (0.5, 0, 0), (0.5, 0.5), WHITE, sides=40)])
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    volume = np.einsum("nk,nk->n", a, np.cross(b, c)).sum() / 6
    assert volume == pytest.approx(4 / 3 * np.pi * 0.5**3, rel=0.05)
    outward = mesh.vertices - [1, 2, 3]
    assert (np.einsum("nk,nk->n", mesh.normals(mesh.vertices), outward) > 0).mean() > 0.95  # all but the seam's ends


def test_a_superellipse_is_drawn_in_even_steps():
    x, y = superellipse(101, 4.0, 2 * np.pi)
    np.testing.assert_allclose(x**4 + y**4, 1, atol=1e-3)
    steps = np.hypot(np.diff(x), np.diff(y))
    assert steps.max() / steps.min() < 1.05


def test_edges_are_antialiased():
    picture = compose([_half_covering_layer()], np.zeros((1, 2, 3), np.float32))
    np.testing.assert_allclose(picture[0, :, 0], [1, 2 / 3], atol=1e-6)


def _half_covering_layer():
    """White over the left five of six fine columns of a photo of 2 x 1 pixels."""
    corners = np.array([[-1.0, -1], [4.5, -1], [4.5, 9], [-1, 9]])
    seen = rasterise(corners, np.ones(4), np.array([[0, 2, 1], [0, 3, 2]]), (3, 6))
    return Layer(seen, np.ones((len(seen.pixels), 3), np.float32))


def test_photos_differ_in_shape_and_have_as_many_pixels(rendered):
    sizes = [photo.size for photo in rendered.photos]
    assert sizes[0] == (160, 120)
    assert len(set(sizes)) == 4
    assert all(abs(w * h / (160 * 120) - 1) < 0.02 for w, h in sizes)


def test_the_mask_is_where_there_is_surface_and_depth(rendered):
    for photo in rendered.photos:
        np.testing.assert_array_equal(photo.mask, np.isfinite(photo.surface).all(-1))
        np.testing.assert_array_equal(photo.mask, np.isfinite(photo.depth))
        assert 0.08 < photo.mask.mean() < 0.5
        border = np.concatenate([photo.mask[0], photo.mask[-1], photo.mask[:, 0], photo.mask[:, -1]])
        assert not border.any()


@pytest.mark.parametrize(("kind", "bound"), [("rendered", 1e-3), ("deformed", 0.2)])
def test_surface_points_project_onto_their_own_pixel(kind, bound, request):
    for photo in request.getfixturevalue(kind).photos:
        y, x = np.nonzero(photo.mask)
        pixels, seen = photo.project(photo.surface[photo.mask])
        assert np.abs(pixels - np.stack([x, y], 1)).max() < bound
        assert seen.all()


def test_the_camera_is_the_plain_pinhole_of_the_files(rendered):
    photo = rendered.photos[1]
    y, x = np.argwhere(photo.mask)[50]
    seen = photo.K @ (photo.R @ photo.surface[y, x] + photo.t)
    np.testing.assert_allclose(seen[:2] / seen[2], [x, y], atol=1e-3)
    assert seen[2] == pytest.approx(photo.depth[y, x], rel=1e-5)
    np.testing.assert_allclose(photo.R @ photo.R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(photo.R) == pytest.approx(1)
    np.testing.assert_allclose(photo.K[:2, 2], (np.array(photo.size) - 1) / 2)


def test_the_surface_is_what_a_ray_meets_first(deformed):
    photo, generator = deformed.photos[0], np.random.default_rng(0)
    mesh = toy_mesh()
    vertices = pose_points(mesh.vertices, photo.pose)
    eye = -photo.R.T @ photo.t
    rays = generator.integers(0, photo.size, (60, 2))
    found = 0
    for x, y in rays:
        ray = photo.R.T @ np.linalg.solve(photo.K, [x, y, 1.0])
        hit = first_hit(eye, ray, vertices, mesh.faces)
        assert np.isfinite(hit) == photo.mask[y, x]
        if np.isfinite(hit):
            found += 1
            assert photo.depth[y, x] == pytest.approx(hit, rel=1e-5)
    assert found > 5


def test_a_keypoint_is_marked_visible_exactly_where_its_ray_meets_it_first(deformed):
    hidden = 0
    for photo, keypoints in zip(deformed.photos, deformed.keypoints, strict=True):
        vertices = pose_points(toy_mesh().vertices, photo.pose)
        normals = toy_mesh().normals(vertices)
        pixels, _ = photo.project(toy_mesh().vertices)
        for x, y, visible in keypoints:
            vertex = np.argmin(np.linalg.norm(pixels - [x, y], axis=1))
            ray = photo.R.T @ np.linalg.solve(photo.K, [x, y, 1.0])
            turned_to_us = -ray @ normals[vertex] > 0.2 * np.linalg.norm(ray)
            depth = (photo.R @ vertices[vertex] + photo.t)[2]
            met = first_hit(photo.camera.centre, ray, vertices, toy_mesh().faces) < depth - 0.02
            hidden += met and turned_to_us
            assert visible == (turned_to_us and not met)
    assert hidden > 2
    assert 0.5 < deformed.keypoints[..., 2].mean() < 0.95


def test_the_nearest_face_at_any_point_of_the_screen():
    corners = np.array([[0.0, 0], [0, 4], [4, 0], [0, 0], [0, 4], [4, 0]])
    nearness, faces = np.array([1.0, 1, 3, 2, 2, 2]), np.array([[0, 1, 2], [3, 4, 5]])
    at = np.array([[0.5, 0.5], [3.5, 0.25], [3, 3]])
    assert nearest_at(corners, nearness, faces, at).tolist() == [2, 2.75, -np.inf]


def test_a_keypoint_is_the_same_point_of_the_object_in_every_photo(deformed):
    """Visible keypoints of a pair agree with the dense truth between the photos."""
    checked = 0
    for source, target in ((0, 1), (1, 2), (2, 0)):
        dense = deformed.correspondences(source, target)
        for (x, y, seen), (to_x, to_y, also) in zip(*deformed.keypoints[[source, target]], strict=True):
            there = dense[round(y), round(x)] if seen and also else [np.nan, np.nan]
            if np.isfinite(there).all():
                checked += 1
                assert np.hypot(there[0] - to_x, there[1] - to_y) < 8  # half a pixel on a slope, seen from aside
    assert checked > 15


def test_correspondences_lead_there_and_back(deformed):
    there = deformed.correspondences(0, 1)
    back = deformed.correspondences(1, 0)
    y, x = np.nonzero(np.isfinite(there).all(-1))
    nearest = np.rint(there[y, x]).astype(int)
    returned = back[nearest[:, 1], nearest[:, 0]]
    error = np.linalg.norm(returned - np.stack([x, y], 1), axis=1)
    assert len(x) > 0.3 * deformed.photos[0].mask.sum()
    assert np.nanmedian(error) < 0.6
    assert np.isfinite(error).mean() > 0.9


def test_a_pose_of_zeros_moves_nothing_and_wheels_never_move():
    vertices = toy_mesh().vertices
    np.testing.assert_allclose(pose_points(vertices, np.zeros(POSES)), vertices, atol=1e-12)
    moved = pose_points(vertices, np.array([0.5, -0.3, 0.6, 0.1]))
    low = vertices[:, 2] < 0.4
    np.testing.assert_allclose(moved[low], vertices[low], atol=1e-12)
    assert np.abs(moved - vertices).max() > 0.3


def test_poses_differ_only_with_deformation(rendered, deformed):
    assert all((photo.pose == 0).all() for photo in rendered.photos)
    assert np.abs(deformed.photos[0].pose - deformed.photos[1].pose).max() > 0.1


def test_the_seed_decides_everything():
    first, again, other = (render_collection(2, seed=seed, size=(64, 48)) for seed in (1, 1, 2))
    for a, b in zip(first.photos, again.photos, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.surface, b.surface)
    np.testing.assert_array_equal(first.keypoints, again.keypoints)
    assert not np.array_equal(first.photos[0].image, other.photos[0].image)


def test_the_object_is_seen_and_is_not_given_away_by_its_surroundings(rendered):
    for photo in rendered.photos:
        inside, outside = photo.image[photo.mask].astype(float), photo.image[~photo.mask].astype(float)
        assert inside.std(0).min() > 25  # textured and shaded
        assert outside.std(0).max() > 12  # so are the surroundings
        assert (photo.image.max(-1)[~photo.mask] < 10).mean() < 0.3  # not a black backdrop


def test_clutter_is_what_the_surroundings_are_made_of():
    plain, full = (render_collection(2, seed=3, size=(96, 72), clutter=clutter) for clutter in (0.0, 1.0))
    for a, b in zip(plain.photos, full.photos, strict=True):
        np.testing.assert_array_equal(a.mask, b.mask)
        assert a.image[~a.mask].astype(float).std() < b.image[~b.mask].astype(float).std()


def test_views_stay_within_the_arc():
    collection = render_collection(6, seed=0, size=(48, 36), arc_degrees=10)
    eyes = np.array([-photo.R.T @ photo.t for photo in collection.photos])
    towards = np.degrees(np.arctan2(eyes[:, 1], eyes[:, 0]))
    assert np.abs(towards - 50).max() < 14  # the aim is off the object's middle by a few degrees
    assert np.ptp(towards) > 10


def test_saved_files_are_those_of_the_data_layout(rendered, tmp_path):
    rendered.save(tmp_path)
    keypoint_set = load_keypoint_set(tmp_path)
    assert keypoint_set.photo_names == rendered.names
    assert keypoint_set.sizes == tuple(photo.size for photo in rendered.photos)
    visible = rendered.keypoints[..., 2] > 0
    np.testing.assert_array_equal(keypoint_set.visible, visible)
    np.testing.assert_allclose(keypoint_set.keypoints[visible], rendered.keypoints[visible][:, :2], atol=1e-3)
    cameras = json.loads((tmp_path / "cameras.json").read_text())["images"]
    for name, photo, camera, box in zip(rendered.names, rendered.photos, cameras, keypoint_set.boxes, strict=True):
        assert camera["file"] == f"images/{name}"
        np.testing.assert_array_equal(camera["R"], photo.R)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "masks" / f"{name}.png")) > 0, photo.mask)
        pixels = np.asarray(Image.open(tmp_path / "images" / name)).astype(float)
        assert np.abs(pixels - photo.image).mean() < 4
        y, x = np.nonzero(photo.mask)
        assert box.tolist() == [x.min(), y.min(), x.max(), y.max()]


def test_a_folder_that_is_a_file_is_refused(rendered, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match=r"taken.* can't be written \(.*\)\. Choose another folder"):
        rendered.save(tmp_path / "taken")


@pytest.mark.parametrize(("count", "size"), [(0, (64, 48)), (2, (23, 48)), (2, (400, 40))])
def test_impossible_collections_are_refused(count, size):
    with pytest.raises(ConfigError) as caught:
        render_collection(count, size=size)
    assert str(caught.value) == (
        "A rendered collection has at least 1 photo of at least 24 pixels a side and an aspect of at most 8; "
        f"{count} of {size[0]} x {size[1]} were asked for."
    )
