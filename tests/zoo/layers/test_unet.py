"""What U-Nets share: padding and cropping, levels, the stem's channels; and what the two of ours see."""

from functools import partial

import pytest
import torch

import zoo  # noqa: F401
from vidiff.registry import BACKBONES, build
from vidiff.types import Cond, CondSpec, Grid
from zoo.backbones.unet3d import bucket
from zoo.layers.unet import padded, steer

NAMES = ["unet3d", "unet3d_basic"]
B, GRID = 2, Grid(5, 3, 8, 4)


def make(name, grid=GRID, **settings):
    torch.manual_seed(0)
    node = {"name": name, **BACKBONES[name].tiny, **settings}
    net = build(
        "backbone", node, grid=grid, out_channels=6, cond=CondSpec(), attention=build("attention", "math"),
        positions=partial(build, "positions", "none"),
    )  # fmt: skip
    return net.double().eval()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def test_padding_copies_the_edge():
    x = draw(B, 3, 2, 5, 6)
    y = padded(x, 4)
    assert y.shape == (B, 3, 2, 8, 8) and torch.equal(y[..., :5, :6], x)
    assert torch.equal(y[..., 5:, :6], x[..., 4:5, :].expand(-1, -1, -1, 3, -1))
    assert torch.equal(y[..., 6:], y[..., 5:6].expand_as(y[..., 6:]))
    assert padded(x[..., :4, :4], 4).shape[-2:] == (4, 4)


def test_steering_is_scale_then_shift_per_frame():
    y, e = draw(B, 3, 5, 2, 4), draw(B, 5, 6, seed=1)
    expected = y * (1 + e[..., :3].mT[..., None, None]) + e[..., 3:].mT[..., None, None]
    assert torch.allclose(steer(y, e), expected, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_an_odd_grid_is_the_padded_one_cropped(name):
    net, x, time = make(name, multipliers=[1, 2, 2]), draw(B, 5, 3, 6, 3), torch.tensor([0.3, 0.7])
    whole = net(padded(x, 4), time, Cond())
    assert whole.shape[-2:] == (8, 4)
    assert torch.allclose(net(x, time, Cond()), whole[..., :6, :3], atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_every_place_reaches_every_place(name):
    """By gradient: the middle sees all of a clip (basic), or of a frame and then of a place's time (factorized)."""
    net, x = make(name), draw(1, *GRID).requires_grad_()
    y = net(x, torch.tensor([0.4]), Cond())
    assert (torch.autograd.grad(y[0, 0, 2, 7, 3], x)[0].abs().sum(dim=1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_levels_halve_and_double(name):
    net, sizes = make(name, multipliers=[1, 2, 3]), []
    for block in net.blocks:
        block.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape[1:])))
    net(draw(B, *GRID), torch.ones(B), Cond())
    down = [(16, 3, 8, 4), (16, 3, 4, 2), (32, 3, 2, 1)]
    assert sizes == [*down, (48, 3, 2, 1), (96, 3, 2, 1), (64, 3, 4, 2), (32, 3, 8, 4)]


def test_distances_in_time_fall_into_the_buckets_of_t5():
    """Eight exact ones on each side, then ranges that grow as powers, then one for all that is far."""
    past = bucket(-torch.arange(0, 40)).tolist()
    assert past[:9] == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert past[31] == 15 and set(past[32:]) == {15} and past == sorted(past)
    assert bucket(torch.tensor([1, 7, 39])).tolist() == [17, 23, 31]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (dict(kernel=4), "kernel=4 has no middle: use kernel=5."),
        (dict(dim=7), "dim=7 gives no sinusoids of time: use an even dim of at least 4."),
    ],
)
def test_impossible_sizes_are_refused(settings, text):
    with pytest.raises(ValueError) as error:
        make("unet3d", **settings)
    assert str(error.value) == text


@torch.no_grad()
def test_conditions_that_were_not_announced_are_refused():
    net, x, time = make("unet3d"), draw(B, *GRID), torch.ones(B)
    with pytest.raises(ValueError, match="built for 5 latent channels; 6x3x8x4 has 6"):
        net(draw(B, 6, 3, 8, 4), time, Cond())
    with pytest.raises(ValueError, match="4 times for 3 frames"):
        net(x, torch.ones(B, 4), Cond())
    with pytest.raises(ValueError, match="built without a condition vector"):
        net(x, time, Cond(vector=draw(B, 16)))
