"""A model trained on one path, sampled along another."""

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import three
from vidiff.diffusion.sampler import start
from vidiff.diffusion.transfer import transfer
from vidiff.random import Random
from vidiff.registry import PATHS, build

NAMES = ("linear", "cosine", "vp", "ve", "ddpm", "gvp")
T = torch.tensor([0.05, 0.3, 0.62, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("trained", NAMES)
@pytest.mark.parametrize("sampled", NAMES)
def test_the_belief_is_exact_and_asked_at_the_same_logsnr(trained, sampled):
    mixture, trained, sampled = three(3), PATHS[trained].build(), PATHS[sampled].build()
    asked = []

    def model(x, t):
        asked.append(t)
        return mixture.estimate(trained)(x, t)

    x = sampled.point(mixture.sample(4, 1), mixture.sample(4, 2), T)
    found, exact = transfer(model, trained, sampled)(x, T), mixture.estimate(sampled)(x, T)
    inside = asked[0] < 1  # as noisy as the trained path gets
    assert torch.allclose(trained.logsnr(asked[0])[inside], sampled.logsnr(T)[inside], atol=1e-9)
    assert all(torch.allclose(a[inside], b[inside], atol=1e-9) for a, b in zip(found, exact))
    assert inside[:3].all()


@pytest.mark.parametrize(
    ("trained", "sampled"), [("cosine", "linear"), ("linear", "cosine"), ("ve", "linear"), ("vp", "ve")]
)
def test_a_transferred_model_reaches_what_a_native_one_reaches(trained, sampled):
    mixture, trained, sampled = three(3), PATHS[trained].build(), PATHS[sampled].build()
    sampler = build("sampler", {"name": "heun", "spacing": "karras"})
    times = sampler.spacing(40, sampled, (0.0, 0.98))
    x = start(sampled, mixture.sample(6, 3), times[0])
    random = Random(0, rows=range(6))
    native = sampler(mixture.estimate(sampled), x, times, sampled, random)
    moved = sampler(transfer(mixture.estimate(trained), trained, sampled), x, times, sampled, random)
    assert torch.allclose(moved, native, atol=1e-8)


def test_never_asks_outside_the_interval_of_training():
    asked, linear = [], PATHS["linear"].build()
    estimate = transfer(lambda x, t: asked.append(t), PATHS["cosine"].build(), linear, (0.01, 0.95))
    estimate(torch.zeros(3, 2), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    assert asked[0][0] == 0.01 and asked[0][2] == 0.95 and 0.01 < asked[0][1] < 0.95
