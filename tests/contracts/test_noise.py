"""What every registered noise prior promises."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.random import Random
from vidiff.registry import NOISES

SHAPE = (3, 4, 5, 6)  # c t h w


@pytest.fixture(params=NOISES.names())
def noise(request):
    return NOISES[request.param].build(NOISES[request.param].tiny)


def test_every_element_has_mean_zero_and_unit_variance(noise):
    num = 4000
    x = noise((num, 2, 3, 2, 4), Random(0, "moments", rows=range(num)), torch.float64)
    assert x.mean(0).abs().max() < 5 / num**0.5
    assert (x.var(0) - 1).abs().max() < 5 * (2 / num) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_row_i_depends_on_its_key_alone(noise, dtype):
    many = noise((8, *SHAPE), Random(5, "n", rows=range(20, 28)), dtype)
    few = noise((2, *SHAPE), Random(5, "n", rows=[23, 21]), dtype)
    assert many.shape == (8, *SHAPE) and many.dtype == dtype
    assert torch.equal(few[0], many[3]) and torch.equal(few[1], many[1])
    assert not torch.equal(many[0], many[1])
    assert not torch.equal(many, noise((8, *SHAPE), Random(6, "n", rows=range(20, 28)), dtype))


def test_leaves_the_global_generator_alone(noise):
    before = torch.get_rng_state()
    noise((2, *SHAPE), Random(5, "n", rows=range(2)))
    assert torch.equal(before, torch.get_rng_state())
