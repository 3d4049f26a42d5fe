"""The alignment network: as large as the paper's, the identity before it is trained, one photo at a time."""

import pytest
import torch

from asic3d.alignment_network import AlignmentNetwork, count_parameters, identity_grid
from asic3d.config import AlignmentConfig
from asic3d.coordinates import cell_centres

SMALL = 0.0625


def moved(seed=0) -> AlignmentNetwork:
    """A network whose last layer is not zero any more."""
    network = AlignmentNetwork(SMALL, seed=seed)
    with torch.no_grad():
        network.flow.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(5))
        network.flow.bias.fill_(0.25)
    return network


def by_hand(channels) -> int:
    """Parameters of a U-Net with these channels: convolutions of 3 x 3 without offset, two numbers a normalised one."""
    total, before = 0, 3
    for count in channels:
        total += 9 * before * count + 9 * count * count + 4 * count
        before = count
    for larger, smaller in zip(channels[:0:-1], channels[-2::-1], strict=True):
        total += 4 * larger * smaller + smaller  # doubles the side
        total += 9 * 2 * smaller * smaller + 9 * smaller * smaller + 4 * smaller
    return total + 2 * channels[0] + 2


def test_it_has_the_papers_size():
    count = count_parameters(AlignmentNetwork(AlignmentConfig().network_width, seed=0))
    assert count == by_hand([32, 64, 128, 256, 512])
    assert round(count / 1e6, 1) == 7.8


@pytest.mark.parametrize("shape", [(32, 32), (17, 40), (16, 16), (33, 50)])
def test_before_training_it_is_the_identity(shape):
    photos = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    found = AlignmentNetwork(SMALL, seed=3)(photos)
    assert torch.equal(found, identity_grid(*shape, photos).expand_as(found))


def test_the_identity_is_each_pixels_own_place():
    like = torch.zeros(1)
    assert torch.equal(identity_grid(5, 5, like).reshape(-1, 2), cell_centres(5))
    wide = identity_grid(2, 4, like)
    torch.testing.assert_close(wide[0, :, 0], torch.tensor([-0.75, -0.25, 0.25, 0.75]))
    torch.testing.assert_close(wide[:, 0, 1], torch.tensor([-0.5, 0.5]))


def test_a_photos_map_does_not_depend_on_the_others_in_the_batch():
    photos = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = moved()
    alone = torch.cat([network(photo[None]) for photo in photos])
    torch.testing.assert_close(network(photos), alone, atol=1e-5, rtol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-3  # it does look at the pixels


def test_the_seed_decides_the_start_and_leaves_the_random_numbers_of_others_alone():
    torch.manual_seed(7)
    wanted = torch.rand(1)
    torch.manual_seed(7)
    one, same, other = (AlignmentNetwork(SMALL, seed=seed) for seed in (1, 1, 2))
    assert torch.rand(1) == wanted
    assert torch.equal(one.down[0][0].weight, same.down[0][0].weight)
    assert not torch.equal(one.down[0][0].weight, other.down[0][0].weight)


def test_it_runs_on_another_device():
    network = moved().to("meta")
    found = network(torch.rand(2, 3, 40, 24, device="meta"))
    assert (found.device.type, found.shape, found.dtype) == ("meta", (2, 40, 24, 2), torch.float32)


def test_every_parameter_is_asked_for():
    network = moved()
    network(torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
