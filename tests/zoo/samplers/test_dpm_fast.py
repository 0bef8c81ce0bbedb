"""dpm_fast and dpm_adaptive: orders, evaluations and tolerances on exact mixtures (their numbers: tests/parity)."""

import math

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import three
from tests.zoo.samplers.test_orders import HIGH, LOW, problem, reference  # noqa: F401
from vidiff.random import Random
from vidiff.registry import build

F64 = torch.float64


@pytest.mark.parametrize(("budgets", "order"), [((62, 125), 3), ((61, 124), 2), ((60, 123), 2)])
def test_its_order_is_that_of_its_last_blocks(problem, budgets, order):  # noqa: F811
    """Blocks of order 3 throughout but the last: of order 2 (n = 3k + 2, local error h^3), or with one of order 1."""
    path, mixture, x, truth = problem
    errors = []
    for n in budgets:
        times = torch.linspace(HIGH, LOW, n + 1, dtype=F64)
        out = build("sampler", {"name": "dpm_fast", "steps": n})(mixture.estimate(path), x, times, path, None)
        errors.append(((out - truth) ** 2).mean().sqrt().item())
    assert order - 0.35 <= math.log2(errors[0] / errors[1]) <= order + 0.7, errors


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "ve", "ddpm"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 6, 7, 20])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_steps_are_evaluations(path, steps, eta):
    path, calls = build("path", path), []
    exact, sampler = three(2).estimate(path), build("sampler", {"name": "dpm_fast", "steps": steps, "eta": eta})
    times = sampler.spacing(steps, path, (0.0, 1.0))
    x = path.norm(times[0]) * three(2).sample(5, 1)
    out = sampler(lambda x, t: calls.append(t) or exact(x, t), x, times, path, Random(1, "fresh", rows=range(5)))
    assert len(calls) == steps == sampler.evaluations and out.isfinite().all()


@pytest.mark.parametrize("order", [2, 3])
def test_the_adaptive_one_is_as_good_as_its_tolerance(problem, order):  # noqa: F811
    path, mixture, x, truth = problem
    ends, errors = torch.tensor([HIGH, LOW], dtype=F64), []
    for tolerance in (1e-2, 1e-3, 1e-4):
        node = {"name": "dpm_adaptive", "order": order, "rtol": tolerance, "atol": tolerance}
        out = build("sampler", node)(mixture.estimate(path), x, ends, path, None)
        errors.append((out - truth).abs().max().item())
        assert errors[-1] < 100 * tolerance
    assert errors[0] > errors[1] > errors[2] and errors[0] > 10 * errors[2]


def test_together_is_the_step_of_the_batch_and_alone_that_of_the_sample():
    path, mixture, x = build("path", "ve"), three(2), 80 * three(2).sample(6, 1)
    times = torch.tensor([1.0, 0.001], dtype=F64)

    def run(x, **settings):
        return build("sampler", {"name": "dpm_adaptive", **settings})(mixture.estimate(path), x, times, path, None)

    alone = torch.cat([run(row[None]) for row in x])
    assert torch.allclose(run(x), alone, rtol=1e-12, atol=1e-12)
    assert torch.equal(run(x[:1], together=True), run(x[:1]))
    assert (run(x, together=True) - alone).abs().max() > 1e-6


def test_an_impossible_tolerance_is_one_clear_line():
    path, mixture = build("path", "ve"), three(2)
    sampler = build("sampler", {"name": "dpm_adaptive", "rtol": 1e-14, "atol": 1e-14, "limit": 300})
    times = torch.tensor([1.0, 0.001], dtype=F64)
    with pytest.raises(ValueError, match="dpm_adaptive needs more than 300 evaluations .* use larger tolerances"):
        sampler(mixture.estimate(path), 80 * mixture.sample(2, 1), times, path, None)
