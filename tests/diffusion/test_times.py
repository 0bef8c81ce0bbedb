"""What densities over t share."""

import torch

from vidiff.diffusion.times import open_uniform, time_dtype, times_on, within
from vidiff.random import Random


def test_open_uniform_is_uniform_and_never_touches_the_ends():
    num = 20_000
    u = open_uniform(Random(4, "u", rows=range(num)))
    assert u.shape == (num,) and u.dtype == torch.float64
    assert u.min() >= 1e-9 and u.max() <= 1 - 1e-9
    steps = torch.arange(num + 1, dtype=torch.float64) / num
    law = u.sort().values
    assert torch.maximum((law - steps[:-1]).abs(), (law - steps[1:]).abs()).max() * num**0.5 < 1.95


def test_within_goes_from_one_end_of_the_interval_to_the_other():
    assert within((0.2, 0.7), torch.tensor([0.0, 0.5, 1.0])).tolist() == torch.tensor([0.2, 0.45, 0.7]).tolist()


def test_times_are_float64_but_on_mps():
    assert time_dtype("cpu") == torch.float64 and time_dtype(torch.device("cuda:1")) == torch.float64
    assert time_dtype("mps") == torch.float32
    assert times_on(torch.device("cpu"), torch.tensor([1.0], dtype=torch.float32)).dtype == torch.float64
