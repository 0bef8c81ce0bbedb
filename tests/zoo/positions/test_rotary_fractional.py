"""LTX's rotary positions: the formula, real time, heads that turn in their own way. Official tables: tests/parity."""

import math

import pytest
import torch

import zoo.positions  # noqa: F401
from vidiff.registry import build
from vidiff.types import Grid
from zoo.layers.attention import rotate
from zoo.layers.embeddings import coordinates

GRID = Grid(5, 3, 2, 4)


def make(dim=40, head_dim=20, axes="thw", **settings):
    return build(
        "positions", {"name": "rotary_fractional", **settings}, dim=dim, head_dim=head_dim, grid=GRID, axes=axes
    )


def test_angles_are_the_formula():
    cell, span = (0.5, 16.0, 8.0), (10.0, 128.0, 256.0)
    cos, sin = make(cell=cell, span=span, base=100.0).rotation(coordinates(GRID[1:], torch.device("cpu")))
    n = 40 // 6
    for place in ((0, 0, 0), (2, 1, 3)):
        for k in range(n):
            for axis in range(3):
                turn = (2 * place[axis] * cell[axis] / span[axis] - 1) * math.pi / 2 * 100 ** (k / (n - 1))
                channel = 40 % 6 + 2 * (3 * k + axis)
                assert cos[place][channel] == cos[place][channel + 1] == pytest.approx(math.cos(turn), abs=1e-4)
                assert sin[place][channel] == sin[place][channel + 1] == pytest.approx(math.sin(turn), abs=1e-4)
        assert (cos[place][:4] == 1).all() and (sin[place][:4] == 0).all(), "what is left over comes first"


def test_twice_the_frames_a_second_is_half_the_cell():
    """The same moment has the same angle, however finely time is cut."""
    coarse, fine = make(cell=(0.5, 32.0, 32.0)), make(cell=(0.25, 32.0, 32.0))
    a = coarse.rotation(coordinates((3, 2, 2), torch.device("cpu")))
    b = fine.rotation(coordinates((6, 2, 2), torch.device("cpu")))
    assert all(torch.allclose(x, y[::2], atol=1e-6) for x, y in zip(a, b, strict=True))


def test_every_head_turns_in_its_own_way():
    q = torch.ones(1, 2, 24, 20)
    cos, sin = (r.flatten(0, 2) for r in make().rotation(coordinates(GRID[1:], torch.device("cpu"))))
    turned = rotate(q, (cos, sin))
    assert not torch.allclose(turned[:, 0], turned[:, 1])
    for head in range(2):
        own = slice(20 * head, 20 * head + 20)
        assert torch.allclose(turned[:, head], rotate(q[:, :1], (cos[:, own], sin[:, own]))[:, 0])


def test_too_narrow_is_refused():
    with pytest.raises(ValueError, match="a dim of at least 12: head_dim=5, dim=10"):
        make(dim=10, head_dim=5)
