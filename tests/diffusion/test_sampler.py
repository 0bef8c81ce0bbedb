"""What samplers share: the start, the steps, spacings by level."""

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from vidiff.diffusion.noise import PriorRandom
from vidiff.diffusion.sampler import LevelSpacing, start, steps_of
from vidiff.random import Random
from vidiff.registry import PATHS, build


def test_start_has_the_deviation_of_noised_unit_data():
    noise, one = torch.randn(2, 3, 4, 5, 6), torch.ones((), dtype=torch.float64)
    for name in ("linear", "cosine", "vp", "ddpm"):
        assert torch.allclose(start(PATHS[name].build(), noise, one), noise, rtol=1e-6)
    assert torch.allclose(start(PATHS["ve"].build(), noise, one), 80 * noise, rtol=1e-4)


def test_steps_are_shaped_for_the_batch():
    times = torch.tensor([1.0, 0.4, 0.0])
    steps = list(steps_of(times, torch.zeros(3, 5)))
    assert [(i, t.tolist(), s.tolist()) for i, t, s in steps] == [
        (0, [1.0] * 3, [pytest.approx(0.4)] * 3),
        (1, [pytest.approx(0.4)] * 3, [0.0] * 3),
    ]


def test_level_spacing_takes_its_ends_from_the_interval_unless_told():
    linear = PATHS["linear"].build()

    def levels(interval, **ends):
        times = build("spacing", {"name": "karras", **ends})(5, linear, interval)
        return times, times / (1 - times)

    free, level = levels((0.0, 1.0))
    assert free[0] == 1 and level[-2] == pytest.approx(0.002)
    rest = levels((0.0, 1.0), sigma_max=80.0)
    assert rest[1][0] == pytest.approx(80) and torch.equal(rest[0][1:], free[1:])
    narrow, _ = levels((0.1, 0.9))
    assert narrow[0] == 0.9 and narrow[-2] == pytest.approx(0.1)
    _, told = levels((0.0, 1.0), sigma_min=0.01, sigma_max=20.0)
    assert told[0] == pytest.approx(20) and told[-2] == pytest.approx(0.01)


@pytest.mark.parametrize("ends", [(1.0, 0.5), (2.0, 2.0), (90.0, None), (None, 0.001)])
def test_level_spacing_refuses_levels_in_the_wrong_order(ends):
    with pytest.raises(ValueError, match=r"sigma_min .* must be below sigma_max"):
        LevelSpacing(*ends)


def test_a_prior_random_draws_from_the_prior_of_training():
    prior, shape = build("noise", {"name": "frame_mixed", "alpha": 2.0}), (2, 3, 4, 5, 6)
    found = PriorRandom(prior, Random(1, "s", rows=range(2))).normal(shape, torch.float64)
    assert torch.equal(found, prior(shape, Random(1, "s", rows=range(2)), torch.float64))
