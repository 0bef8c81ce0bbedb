"""Learned positions: the table itself on its own grid, stretched on another."""

import torch

import zoo.positions  # noqa: F401
from vidiff.registry import build
from vidiff.types import Grid
from zoo.layers.embeddings import coordinates

CPU = torch.device("cpu")


def learned(axes="thw"):
    torch.manual_seed(0)
    return build("positions", "learned", dim=5, head_dim=2, grid=Grid(9, 3, 4, 6), axes=axes)


def test_its_own_grid_is_the_table():
    positions = learned()
    assert torch.equal(positions.added(coordinates((3, 4, 6), CPU)), positions.table)
    assert positions.table.shape == (3, 4, 6, 5)


def test_the_start_is_normal_with_deviation_one_fiftieth():
    positions = build("positions", "learned", dim=64, head_dim=2, grid=Grid(9, 7, 8, 9), axes="thw")
    assert abs(positions.table.std().item() - 0.02) < 5e-4
    assert positions.table.abs().max() < 2.0


def test_another_grid_is_stretched_linearly():
    """A table linear along an axis stays linear when the axis is doubled, away from the ends."""
    positions = learned("t")
    with torch.no_grad():
        positions.table.copy_(torch.tensor([0.0, 1.0, 2.0])[:, None].expand(3, 5))
    assert positions.added(coordinates((6,), CPU))[:, 0].tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.0]


def test_axes_are_stretched_where_they_belong():
    positions = learned()
    with torch.no_grad():
        positions.table.copy_(torch.arange(4.0)[None, :, None, None].expand(3, 4, 6, 5))
    added = positions.added(coordinates((2, 8, 3), CPU))
    assert added.shape == (2, 8, 3, 5)
    assert torch.allclose(added[1, :, 2, 3], torch.tensor([0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]))
    assert (added == added[:1, :, :1]).all()
