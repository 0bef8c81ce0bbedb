"""Sinusoids of time: the closed form, their precision, and that neighbouring times can be told apart."""

import math

import pytest
import torch

from zoo.layers.embeddings import TimeEmbedding, coordinates, sincos, time_frequencies, time_sinusoid

CPU = torch.device("cpu")


def test_cosines_first_over_periods_from_two_pi_to_sixty_thousand():
    row = time_sinusoid(torch.tensor([3.5]), 8)[0].tolist()
    w = [10000 ** (-i / 4) for i in range(4)]
    assert row == pytest.approx([math.cos(3.5 * v) for v in w] + [math.sin(3.5 * v) for v in w], abs=1e-6)


def test_it_is_float32_in_every_model():
    time = torch.tensor([0.0, 999.0], dtype=torch.float64)
    assert time_sinusoid(time, 256).dtype == torch.float32
    embedding = TimeEmbedding(12).double()
    assert embedding(time).dtype == torch.float64
    assert embedding.bfloat16()(time).dtype == torch.bfloat16


def test_frequencies_are_rounded_correctly():
    exact = torch.exp((-math.log(10000.0) * torch.arange(128, dtype=torch.float32) / 128).double())
    assert torch.equal(time_frequencies(128, CPU), exact.float())


def test_amp_stays_out():
    torch.manual_seed(0)
    embedding, time = TimeEmbedding(12), torch.rand(5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = embedding(time)
    assert torch.equal(inside, embedding(time))


@pytest.mark.parametrize(("step", "apart"), [(1 / 50, 0.5), (1 / 250, 0.2), (1 / 1000, 0.05)])
def test_neighbouring_times_are_told_apart(step, apart):
    """Nano-Sora feeds t in [0,1] unscaled: at a hundredth apart its sinusoids move by 0.2 % (the last line)."""
    t = torch.linspace(0, 1 - step, 21)

    def distance(scale):
        a, b = (time_sinusoid(scale * x, 256) for x in (t, t + step))
        return ((a - b).norm(dim=-1) / a.norm(dim=-1)).min()

    assert distance(TimeEmbedding(8).scale) > apart
    assert distance(1.0) < 0.01


def test_a_time_per_sample_or_per_frame():
    torch.manual_seed(0)
    embedding, time = TimeEmbedding(12), torch.rand(2, 3)
    assert embedding(time).shape == (2, 3, 12)
    assert torch.allclose(embedding(time)[1, 2], embedding(time[1, 2]), atol=1e-6)


def test_coordinates_are_indices_in_raster_order():
    coords = coordinates((2, 3, 4), CPU)
    assert coords.shape == (2, 3, 4, 3)
    assert coords[1, 2, 3].tolist() == [1, 2, 3]
    assert coords.flatten(0, 2)[5].tolist() == [0, 1, 1]


def test_sincos_is_rounded_once():
    x = torch.tensor([0.0, 17.0, 255.0])
    w = 10000.0 ** (-torch.arange(5).double() / 5)
    a = x.double()[:, None] * w
    assert torch.equal(sincos(x, 10), torch.cat([a.sin(), a.cos()], -1).float())
