"""Sinusoids: closed forms, number by number, and the official table of DiT."""

import math

import pytest
import torch

import zoo.positions  # noqa: F401
from tests.parity.networks import read
from vidiff.registry import build
from vidiff.types import Grid
from zoo.layers.embeddings import coordinates


def table(axes, sizes, dim):
    positions = build("positions", "sincos", dim=dim, head_dim=8, grid=Grid(1, 2, 3, 4), axes=axes)
    return positions.added(coordinates(sizes, torch.device("cpu")))


def sinusoid(x, dim):
    w = [10000 ** (-i / (dim // 2)) for i in range(dim // 2)]
    return [math.sin(x * v) for v in w] + [math.cos(x * v) for v in w]


def test_one_axis_takes_the_whole_width():
    for t, row in enumerate(table("t", (5,), 12)):
        assert row.tolist() == pytest.approx(sinusoid(t, 12), abs=1e-7)


def test_two_axes_column_first():
    added = table("hw", (3, 5), 16)
    for h, w in [(0, 4), (2, 1), (1, 0)]:
        assert added[h, w].tolist() == pytest.approx(sinusoid(w, 8) + sinusoid(h, 8), abs=1e-7)


def test_three_axes_time_a_quarter_then_column_then_row():
    added = table("thw", (4, 3, 5), 32)
    for t, h, w in [(3, 0, 4), (0, 2, 1), (1, 1, 0)]:
        expected = sinusoid(t, 8) + sinusoid(w, 12) + sinusoid(h, 12)
        assert added[t, h, w].tolist() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(("name", "size"), [("dit_a", 4), ("dit_b", 4), ("latte_uncond_a", 4)])
def test_the_official_tables(name, size):
    _, state, kwargs = read("models", name)
    dim = kwargs["hidden_size"]
    assert torch.allclose(table("hw", (size, size), dim).flatten(0, 1), state["pos_embed"][0], atol=1e-7)
    if "temp_embed" in state:
        assert torch.allclose(table("t", (kwargs["num_frames"],), dim), state["temp_embed"][0], atol=1e-7)


@pytest.mark.parametrize(("axes", "dim", "fits"), [("thw", 40, 48), ("hw", 18, 20), ("t", 7, 8)])
def test_a_width_that_does_not_split_is_refused(axes, dim, fits):
    with pytest.raises(ValueError, match=f"dim={dim} is not. Use dim={fits}."):
        table(axes, (2,) * len(axes), dim)
    table(axes, (2,) * len(axes), fits)
