import math

import pytest
import torch

from asic3d.canonical import cubic_basis
from asic3d.coordinates import cell_centres
from asic3d.unfolding import measure_distortion, unfold

G = 20


def photos(*maps) -> torch.Tensor:
    cells = cell_centres(G).double().reshape(G, G, 2)
    return torch.stack([function(cells) for function in maps])


def object_weight(count: int) -> torch.Tensor:
    inside = cell_centres(G).reshape(G, G, 2).norm(dim=-1) < 0.8
    return inside.float().expand(count, G, G)


def turned(angle: float, size: float):
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    return lambda cells: size * cells @ turn + 0.3


def test_turning_and_scaling_distort_nothing():
    found = measure_distortion(photos(turned(0.4, 2.0), turned(-1.0, 0.3)), object_weight(2))
    assert found.angle.abs().max() < 1e-3
    assert (found.area - 1).abs().max() < 1e-5
    assert (found.folded, round(found.mean_stretch, 4)) == (0.0, 1.0)


def test_stretching_by_two_changes_angles_as_tissot_has_it():
    found = measure_distortion(photos(lambda cells: cells * torch.tensor([2.0, 1.0])), object_weight(1))
    assert found.mean_angle == pytest.approx(math.degrees(2 * math.asin(1 / 3)), abs=1e-3)
    assert found.mean_stretch == pytest.approx(1, abs=1e-5)  # the same everywhere


def test_a_fold_is_found_where_it_is():
    folded = photos(lambda cells: torch.stack([cells[..., 0].abs(), cells[..., 1]], -1))
    found = measure_distortion(folded, torch.ones(1, G, G))
    assert found.folded == pytest.approx(0.45, abs=0.06)  # the left half, but for the cells on the fold
    assert (found.area[0, :, : G // 2 - 1] < 0).all() and (found.area[0, :, G // 2 + 1 :] > 0).all()


def test_a_photo_that_faces_the_other_way_is_mirrored_and_not_folded():
    mirrored = photos(lambda cells: bent(cells * torch.tensor([-0.9, 0.9])), bent)
    weight = object_weight(2)
    found = measure_distortion(mirrored, weight)
    assert found.folded == 0 and (found.area[0][weight[0] > 0] > 0).all()
    unfolding, _ = unfold(mirrored, weight)
    after = measure_distortion(unfolding(mirrored), weight)
    assert after.folded == 0 and after.mean_angle < 5 < 25 < found.mean_angle


def bent(cells: torch.Tensor) -> torch.Tensor:
    x, y = cells.unbind(-1)
    return torch.stack([1.3 * x + 0.32 * x**2, 0.8 * y + 0.15 * x * y], -1)


def test_a_bend_that_all_photos_share_is_undone():
    canonical = photos(bent, lambda cells: bent(0.9 * cells + 0.05), lambda cells: bent(0.8 * cells))
    weight = object_weight(3)
    unfolding, _ = unfold(canonical, weight)
    before, after = measure_distortion(canonical, weight), measure_distortion(unfolding(canonical), weight)
    assert before.mean_angle > 25 and after.mean_angle < 4
    assert before.mean_stretch > 1.2 and after.mean_stretch < 1.06
    assert after.folded == 0


def test_the_spline_is_looked_up_as_exactly_as_is_said():
    unfolding, _ = unfold(photos(bent, lambda cells: bent(0.9 * cells + 0.05)), object_weight(2))
    places = 2.4 * (torch.rand(2000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5)
    x, y = (cubic_basis((line / unfolding.reach).clamp(-1, 1), 8) for line in places.T)
    exact = places + torch.einsum("ni,nj,ijd->nd", y, x, unfolding.control.reshape(8, 8, 2)) + unfolding.shift
    assert (exact - places).abs().max() > 0.1
    assert (unfolding(places) - exact).abs().max() < 3e-5


def test_size_is_kept_and_the_object_is_centred():
    canonical = photos(turned(0.0, 1.5))
    unfolding, extent = unfold(canonical, object_weight(1))
    plane = unfolding(canonical)[object_weight(1) > 0]
    assert ((plane.amax(0) + plane.amin(0)) / 2).abs().max() < 0.06
    assert extent == pytest.approx(0.8 * 1.5, rel=0.08)


def test_places_beyond_the_photos_stay_finite_and_in_order():
    unfolding, _ = unfold(photos(bent), object_weight(1))
    line = torch.stack([torch.linspace(-9, 9, 181), torch.zeros(181)], -1)
    moved = unfolding(line)
    assert moved.isfinite().all() and (moved[:, 0].diff() > 0).all()
    assert moved.dtype == line.dtype


@pytest.mark.parametrize("weight", [torch.zeros(2, G, G), torch.ones(2, G, G)])
def test_hopeless_maps_do_not_fail(weight):
    for canonical in (torch.zeros(2, G, G, 2), photos(bent, bent)):
        unfolding, extent = unfold(canonical, weight)
        assert unfolding(canonical).isfinite().all() and extent > 0
        assert measure_distortion(unfolding(canonical), weight).angle.isfinite().all()
