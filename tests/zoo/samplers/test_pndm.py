"""pndm: its orders, what it costs, and DDIM where the noise does not change (its numbers: tests/parity)."""

import math

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import three
from tests.zoo.samplers.test_orders import HIGH, LOW, problem, reference  # noqa: F401
from vidiff.diffusion.estimate import Estimate
from vidiff.random import generator
from vidiff.registry import build

F64 = torch.float64


@pytest.mark.parametrize("warmup", ["plms", "prk"])
def test_order_two_and_three_where_its_steps_are_linear(problem, warmup):  # noqa: F811
    """On `ve` the step is linear in sigma and the weights are Adams and Bashforth's own; elsewhere they are borrowed."""
    path, mixture, x, truth = problem
    errors, order = [], 3 if path.alpha(torch.tensor(0.5, dtype=F64)) == 1 else 2
    for steps in (128, 256):
        times = torch.linspace(HIGH, LOW, steps + 1, dtype=F64)
        out = build("sampler", {"name": "pndm", "warmup": warmup})(mixture.estimate(path), x, times, path, None)
        errors.append(((out - truth) ** 2).mean().sqrt().item())
    assert order - 0.25 <= math.log2(errors[0] / errors[1]) <= order + 1.2, errors
    assert errors[1] < 2e-3


@pytest.mark.parametrize("warmup", ["plms", "prk"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
def test_it_promises_what_it_asks_for(warmup, steps):
    path, mixture, calls = build("path", "linear"), three(2), []
    sampler, exact = build("sampler", {"name": "pndm", "warmup": warmup, "steps": steps}), mixture.estimate(path)
    times = torch.linspace(1, 0, steps + 1, dtype=F64)
    sampler(lambda x, t: calls.append(t) or exact(x, t), mixture.sample(4, 1), times, path, None)
    assert len(calls) == sampler.evaluations


@pytest.mark.parametrize("path", ["linear", "cosine", "ddpm"])
def test_it_is_ddim_where_the_believed_noise_is_the_same_everywhere(path):
    """All weights add up to one."""
    path, noise = build("path", path), torch.randn(5, 2, generator=generator(2, "pndm"), dtype=F64)

    def believe(x, t):
        x0 = (x - path.sigma(t)[:, None] * noise) / path.alpha(t)[:, None]
        return Estimate(x0, noise)

    x, times = torch.randn(5, 2, generator=generator(3, "pndm"), dtype=F64), torch.linspace(0.9, 0, 7, dtype=F64)
    for warmup in ("plms", "prk"):
        out = build("sampler", {"name": "pndm", "warmup": warmup})(believe, x, times, path, None)
        assert torch.allclose(out, build("sampler", "euler")(believe, x, times, path, None), rtol=1e-10, atol=1e-10)
