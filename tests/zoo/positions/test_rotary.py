"""Rotary positions: attention sees differences of coordinates only, on every axis, with the right turns."""

import math

import pytest
import torch

import zoo.positions  # noqa: F401
from vidiff.registry import build
from vidiff.types import Grid
from zoo.layers.attention import rotate
from zoo.layers.embeddings import coordinates

CPU = torch.device("cpu")


def rotary(head_dim, axes, **settings):
    wiring = dict(dim=48, head_dim=head_dim, grid=Grid(1, 2, 3, 4), axes=axes)
    return build("positions", {"name": "rotary", **settings}, **wiring)


def scores(positions, coords, q, k):
    """<R q, R k> between all places of coords (N,axes), for one query and one key vector."""
    rotation = tuple(r[None, None] for r in positions.rotation(coords))
    n = len(coords)
    q, k = (rotate(x.expand(1, 1, n, -1), tuple(r[0, 0] for r in rotation)) for x in (q, k))
    return (q[0, 0].double() @ k[0, 0].double().T).float()


@pytest.mark.parametrize(("axes", "head_dim"), [("thw", 24), ("thw", 16), ("hw", 20), ("t", 9), ("hw", 7)])
def test_scores_depend_on_differences_only(axes, head_dim):
    torch.manual_seed(0)
    q, k = torch.randn(head_dim), torch.randn(head_dim)
    positions = rotary(head_dim, axes)
    coords = coordinates((3, 4, 5)[: len(axes)], CPU).flatten(0, -2)
    shift = torch.tensor([2.0, -1.0, 7.0])[: len(axes)]
    here, there = (scores(positions, c, q, k) for c in (coords, coords + shift))
    assert torch.allclose(here, there, atol=2e-5)
    assert here.std() > 0.1
    for axis in range(len(axes)):  # and every axis counts
        moved = coords.clone()
        moved[:, axis] = 0
        assert not torch.allclose(scores(positions, moved, q, k), here, atol=1e-2)


def test_angles_axis_by_axis():
    """head_dim 16 over three axes: two pairs each, four channels not turned."""
    cos, sin = rotary(16, "thw", base=100.0).rotation(torch.tensor([[3.0, 5.0, 7.0]]))
    turns = [3, 3 / 10, 5, 5 / 10, 7, 7 / 10, 0, 0]
    for pair, angle in enumerate(turns):
        for channel in (2 * pair, 2 * pair + 1):
            assert cos[0, channel].item() == pytest.approx(math.cos(angle), abs=1e-6)
            assert sin[0, channel].item() == pytest.approx(math.sin(angle), abs=1e-6)


def test_rotate_is_a_rotation_of_pairs():
    x = torch.tensor([1.0, 0.0, 0.0, 2.0, 5.0]).reshape(1, 1, 1, 5)
    a = torch.tensor([[0.3, 0.3, 1.1, 1.1, 0.0]])
    y = rotate(x, (a.cos(), a.sin())).flatten()
    expected = [math.cos(0.3), math.sin(0.3), -2 * math.sin(1.1), 2 * math.cos(1.1), 5.0]
    assert y.tolist() == pytest.approx(expected, abs=1e-6)


def test_halves_are_turned_in_float32():
    x = torch.randn(1, 2, 50, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    rotation = rotary(8, "t").rotation(torch.arange(50.0)[:, None])
    y = rotate(x, rotation)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, rotate(x.float(), rotation).bfloat16())


def test_a_head_too_small_is_refused():
    with pytest.raises(ValueError, match="head_dim=4 has 2"):
        rotary(4, "thw")


# ---- longer than in training: grid 2x3x4 ----


def turned(positions, *sizes):
    return positions.rotation(coordinates(sizes, CPU))


@pytest.mark.parametrize("longer", ["interpolate", "ntk"])
@pytest.mark.parametrize("sizes", [(2, 3, 4), (1, 2, 4)])
def test_up_to_the_size_of_training_nothing_changes(longer, sizes):
    for a, b in zip(turned(rotary(24, "thw", longer=longer), *sizes), turned(rotary(24, "thw"), *sizes), strict=True):
        assert torch.equal(a, b)


def test_interpolation_keeps_every_angle_within_those_of_training():
    """6 frames of 2 trained: frame k turns as frame k/3 would; the other axes turn as before."""
    cos, sin = turned(rotary(24, "thw", longer="interpolate"), 6, 3, 4)
    squeezed = coordinates((6, 3, 4), CPU)
    squeezed[..., 0] /= 3
    expected = rotary(24, "thw").rotation(squeezed)
    assert torch.allclose(cos, expected[0], atol=1e-6) and torch.allclose(sin, expected[1], atol=1e-6)


def test_ntk_keeps_the_fastest_pair_and_slows_the_slowest():
    """5 frames of 2 trained: pair 0 turns as before, the last 2.5 times slower, those between in between."""
    cos, sin = turned(rotary(8, "t", longer="ntk"), 5)
    plain_cos, plain_sin = turned(rotary(8, "t"), 5)
    angle, plain = (torch.atan2(s, c)[1, ::2].double() for c, s in ((cos, sin), (plain_cos, plain_sin)))
    ratio = plain / angle
    assert ratio[0].item() == pytest.approx(1, abs=1e-6) and ratio[-1].item() == pytest.approx(2.5, abs=1e-4)
    assert (ratio.diff() > 0).all() and len(ratio) == 4


def test_a_network_runs_on_longer_clips_whatever_is_done():
    for longer in ("none", "interpolate", "ntk"):
        assert turned(rotary(24, "thw", longer=longer), 5, 6, 9)[0].shape == (5, 6, 9, 24)
