"""Convergence of every deterministic sampler against a dense reference (DOP853 at 1e-12)."""

import math

import pytest
import torch
from scipy.integrate import solve_ivp

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import three
from vidiff.diffusion.estimate import velocity
from vidiff.registry import PATHS, SAMPLERS, build

ORDERS = {
    "euler": 1, "ode_euler": 1, "heun": 2, "heun2": 2, "heun3": 3, "midpoint": 2, "rk4": 4,
    "dpm2": 2, "dpm_solver": 2, "dpm_solver exact": 3, "dpmpp_2m": 2, "dpmpp_2s": 2, "dpmpp_3m": 2, "dpmpp_3m exact": 3, "dpmpp_singlestep": 2, "dpmpp_singlestep of order 3": 3, "deis": 3, "lms": 4,
    "unipc": 3, "unipc of noise": 3,
}  # fmt: skip
"""`unipc` corrects its second-order step to the third, `deis` and `lms` have their default orders; the published
`dpmpp_3m` weighs its quadratic term by half, so that its order is 2."""
NODES = {
    "dpm_solver exact": {"name": "dpm_solver", "order": 3, "exact": True},
    "dpmpp_3m exact": {"name": "dpmpp_3m", "exact": True},
    "dpmpp_singlestep of order 3": {"name": "dpmpp_singlestep", "order": 3, "solver": "heun"},
    "unipc of noise": {"name": "unipc", "of": "noise"},
}
MULTISTEP = {
    "dpmpp_singlestep of order 3",
    "dpm_solver",
    "dpm_solver exact",
    "unipc of noise",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_3m exact",
    "deis",
    "lms",
    "unipc",
}
ENDLESS = {"dopri5", "clipped", "stopped", "jump", "dpm_adaptive", "dpm_fast", "pndm"}
"""Deterministic, of no order on a given grid: adaptive, another sampler's, for models that know where a step ends, with
levels of its own (test_dpm_fast.py), or of another order on straight paths (test_pndm.py)."""
HIGH, LOW = 0.97, 0.03


def grid(name, steps):
    """Equal steps; for methods that begin with lower orders, small ones first, so that the beginning costs nothing."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    u = u**2 * (3 - 2 * u) if name in MULTISTEP else u
    times = HIGH + (LOW - HIGH) * u
    times[-1] = LOW
    return times


def reference(path, mixture, x):
    exact = mixture.estimate(path)

    def slope(t, flat):
        state = torch.from_numpy(flat.reshape(x.shape))
        times = torch.full((len(x),), t, dtype=torch.float64)
        return velocity(path, exact(state, times), times).numpy().ravel()

    solution = solve_ivp(slope, (HIGH, LOW), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    return torch.from_numpy(solution.y[:, -1]).reshape(x.shape)


@pytest.fixture(scope="module", params=["linear", "cosine", "vp", "ve"])
def problem(request):
    """A path, the mixture, x at HIGH, the true x at LOW, and the warp that makes the noise levels reachable."""
    path, mixture = PATHS[request.param].build({"sigma_max": 8.0} if request.param == "ve" else {}), three(2)
    one = torch.full((24,), HIGH, dtype=torch.float64)
    x = path.point(mixture.sample(24, 1), mixture.sample(24, 2), one)
    return path, mixture, x, reference(path, mixture, x)


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence(problem, name):
    path, mixture, x, truth = problem
    sampler, errors, order = build("sampler", NODES.get(name, name)), [], ORDERS[name]
    for steps in (64, 128) if order == 3 or name == "rk4" else (128, 256):
        out = sampler(mixture.estimate(path), x, grid(name, steps), path, None)
        errors.append(((out - truth) ** 2).mean().sqrt().item())
    assert order - 0.25 <= math.log2(errors[-2] / errors[-1]) <= order + 0.6, errors
    assert errors[-1] < {1: 0.04, 2: 2e-3, 3: 4e-4, 4: 2e-4}[order]


def test_every_deterministic_sampler_has_an_order():
    assert {c.name for c in SAMPLERS if c.build(c.tiny).reverses} == set(ORDERS) - set(NODES) | ENDLESS


@pytest.mark.parametrize("name", ORDERS)
def test_encoding_and_decoding_returns(name):
    """The ODE run backwards (ascending times) and forwards again, to the order of the method."""
    path, mixture, gaps = build("path", "cosine"), three(2), []
    x = path.point(mixture.sample(9, 1), mixture.sample(9, 2), torch.full((9,), LOW, dtype=torch.float64))
    for steps in (100, 200):
        times = grid(name, steps)
        sampler = build("sampler", NODES.get(name, name))
        code = sampler(mixture.estimate(path), x, times.flip(0), path, None)
        back = sampler(mixture.estimate(path), code, times, path, None)
        gaps.append((back - x).abs().max().item())
    assert gaps[1] < 0.1 and math.log2(gaps[0] / gaps[1]) > ORDERS[name] - 0.5


@pytest.mark.parametrize("name", [c.name for c in SAMPLERS if not c.build(c.tiny).reverses])
def test_one_that_adds_noise_refuses_to_run_backwards(name):
    path, mixture = build("path", "linear"), three(2)
    x, times = mixture.sample(3, 1), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    with pytest.raises(ValueError, match="adds noise on the way"):
        build("sampler", name)(mixture.estimate(path), x, times, path, None)


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "ve"])
def test_dopri5_keeps_its_tolerance(path):
    path, mixture = PATHS[path].build({"sigma_max": 8.0} if path == "ve" else {}), three(2)
    x = path.point(mixture.sample(24, 1), mixture.sample(24, 2), torch.full((24,), HIGH, dtype=torch.float64))
    truth, ends = reference(path, mixture, x), torch.tensor([HIGH, LOW], dtype=torch.float64)
    for tolerance in (1e-4, 1e-6, 1e-8):
        calls, exact = [], mixture.estimate(path)
        sampler = build("sampler", {"name": "dopri5", "rtol": tolerance, "atol": tolerance})
        out = sampler(lambda x, t: calls.append(t) or exact(x, t), x, ends, path, None)  # noqa: B023
        assert (out - truth).abs().max() < 100 * tolerance
    limited = build("sampler", {"name": "dopri5", "limit": 20})
    with pytest.raises(ValueError, match="dopri5 needs more than 20 evaluations"):
        limited(exact, x, ends, path, None)


def test_dopri5_chooses_the_steps_of_torchdiffeq_for_a_single_sample():
    torchdiffeq = pytest.importorskip("torchdiffeq")
    path, mixture = build("path", "linear"), three(2)
    x, exact, counts = mixture.sample(1, 1), mixture.estimate(path), [0, 0]

    def slope(t, x):
        counts[0] += 1
        return velocity(path, exact(x, t.expand(len(x))), t.expand(len(x)))

    def counted(x, t):
        counts[1] += 1
        return exact(x, t)

    times = torch.tensor([0.9, 0.1], dtype=torch.float64)
    theirs = torchdiffeq.odeint(slope, x, times, rtol=1e-6, atol=1e-6, method="dopri5")[-1]
    ours = build("sampler", {"name": "dopri5", "rtol": 1e-6, "atol": 1e-6})(counted, x, times, path, None)
    assert torch.allclose(ours, theirs, atol=1e-6) and abs(counts[0] - counts[1]) <= 12
