"""Convergence: Euler of order 1 and Heun of order 2 against a dense reference (DOP853 at 1e-12)."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import three
from vidiff.diffusion.estimate import velocity
from vidiff.registry import PATHS, build

ORDERS = {"euler": 1, "heun": 2}
HIGH, LOW = 0.97, 0.03


def reference(path, mixture, x):
    exact = mixture.estimate(path)

    def slope(t, flat):
        state = torch.from_numpy(flat.reshape(x.shape))
        times = torch.full((len(x),), t, dtype=torch.float64)
        return velocity(path, exact(state, times), times).numpy().ravel()

    solution = solve_ivp(slope, (HIGH, LOW), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    return torch.from_numpy(solution.y[:, -1]).reshape(x.shape)


@pytest.fixture(scope="module", params=["linear", "cosine", "gvp", "vp", "sigmoid", "ve"])
def problem(request):
    """A path, the mixture, x at HIGH, the true x at LOW, and the warp that makes the noise levels reachable."""
    path, mixture = PATHS[request.param].build({"sigma_max": 8.0} if request.param == "ve" else {}), three(2)
    one = torch.full((24,), HIGH, dtype=torch.float64)
    x = path.point(mixture.sample(24, 1), mixture.sample(24, 2), one)
    return path, mixture, x, reference(path, mixture, x)


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(problem, name):
    path, mixture, x, truth = problem
    sampler, errors = build("sampler", name), []
    for steps in (128, 256, 512):
        times = torch.linspace(HIGH, LOW, steps + 1, dtype=torch.float64)
        out = sampler(mixture.estimate(path), x, times, path, None)
        errors.append(((out - truth) ** 2).mean().sqrt().item())
    order = math.log2(errors[-2] / errors[-1])
    assert ORDERS[name] - 0.25 <= order <= ORDERS[name] + 0.6, errors
    assert errors[-1] < {"euler": 0.02, "heun": 5e-4}[name]


@pytest.mark.parametrize("name", ORDERS)
def test_encoding_and_decoding_returns(name):
    """The ODE run backwards (ascending times) and forwards again, to the order of the method."""
    path, mixture, gaps = build("path", "cosine"), three(2), []
    x = path.point(mixture.sample(9, 1), mixture.sample(9, 2), torch.full((9,), LOW, dtype=torch.float64))
    for steps in (200, 400):
        times = torch.linspace(HIGH, LOW, steps + 1, dtype=torch.float64)
        code = build("sampler", name)(mixture.estimate(path), x, times.flip(0), path, None)
        back = build("sampler", name)(mixture.estimate(path), code, times, path, None)
        gaps.append((back - x).abs().max().item())
    assert gaps[1] < 0.1 and math.log2(gaps[0] / gaps[1]) > ORDERS[name] - 0.3
