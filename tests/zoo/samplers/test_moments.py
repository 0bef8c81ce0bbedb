"""Samplers that add noise, on Gaussian data: exact moments after K steps, without Monte Carlo.

On Gaussian data every estimate is affine in x, so a run is affine in its inputs: the start and each draw. Unit
impulses of every input, one per row of a batch, read that map from the sampler as a black box; mean and covariance of
what it draws follow. They must tend to the data's as steps are added, at the sampler's weak order.
"""

import math

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import Mixture, gaussian
from vidiff.diffusion.sampler import halfway
from vidiff.random import Random, generator
from vidiff.registry import PATHS, SAMPLERS, build

F64 = torch.float64
D = 2
HIGH, LOW = 0.97, 0.03
PATHS_HERE = {"linear": {}, "cosine": {}, "vp": {}, "ve": {"sigma_max": 8.0}}
STOCHASTIC = [c.name for c in SAMPLERS if not c.build(c.tiny).reverses]

ORDERS = {
    "dpm_solver": 2,
    "dpmpp_2m_sde": 2,
    "dpmpp_3m_sde": 2,
    "dpm2_ancestral": 2,
    "dpmpp_2s_ancestral": 2,
    "edm_stochastic": 2,
}
"""Weak orders above 1, which every other one has, new ones included. An ancestral step is an ODE step to a level below
and fresh noise back up, both exact in distribution but for the solver: its order is the solver's.

`dpmpp_sde` has 2 where its two draws are those of one Brownian motion, and 1 where they are independent."""
QUIET = [
    ({"name": "ancestral", "eta": 0.0}, "euler"),
    ({"name": "dpm2_ancestral", "eta": 0.0}, "dpm2"),
    ({"name": "dpmpp_2m_sde", "eta": 0.0}, "dpmpp_2m"),
    ({"name": "dpmpp_2m_sde", "eta": 0.0, "solver": "heun"}, {"name": "dpmpp_2m", "solver": "heun"}),
    ({"name": "dpmpp_2s_ancestral", "eta": 0.0}, "dpmpp_2s"),
    ({"name": "dpmpp_3m_sde", "eta": 0.0}, {"name": "dpmpp_3m", "solver": "heun"}),
    ({"name": "dpmpp_sde", "eta": 0.0}, "dpmpp_2s"),
    ({"name": "edm_stochastic", "churn": 0.0}, "heun"),
    ({"name": "euler_churn", "churn": 0.0}, "euler"),
    ({"name": "euler_maruyama", "norm": 0.0, "last": "euler"}, "ode_euler"),
    ({"name": "heun_sde", "norm": 0.0}, "heun"),
]
"""Without noise each is its deterministic sibling."""
SETTINGS = {
    "ancestral": [{}, {"eta": 0.5}],
    "ddpm": [{}, {"variance": "large"}],
    "dpm2_ancestral": [{}, {"eta": 0.5}],
    "dpmpp_2m_sde": [{}, {"eta": 0.5}, {"solver": "heun"}],
    "dpmpp_2s_ancestral": [{}, {"eta": 0.5}],
    "dpmpp_3m_sde": [{}, {"eta": 0.5}, {"solver": "midpoint"}],
    "dpmpp_sde": [{}, {"eta": 0.5}, {"brownian": True}, {"brownian": True, "eta": 0.5}],
    "edm_stochastic": [{"churn": 8.0}, {"churn": 8.0, "s_min": 0.2, "s_max": 3.0}],
    "euler_churn": [{"churn": 8.0}],
    "heun_sde": [{"diffusion": "constant", "norm": 0.7}, {"diffusion": "sbdm", "norm": 0.7}],
    "euler_maruyama": [
        {"diffusion": form, "norm": norm}
        for form in ("constant", "sigma", "linear", "decreasing", "increasing_decreasing", "sbdm")
        for norm in (0.7,)
    ],
}
CASES = [
    (name, {"name": name, **settings})
    for name in STOCHASTIC
    if SAMPLERS[name].target.spreads
    for settings in SETTINGS.get(name, [{}])
] + [("dpm_solver", {"name": "dpm_solver", "stochastic": True})]


def label(value):
    return "-".join(map(str, value.values())) if isinstance(value, dict) else None


def data():
    """N(mean, covariance), correlated, of about unit variance."""
    root = torch.tensor([[0.9, 0.0], [-0.5, 0.4]], dtype=F64)
    return Mixture(torch.ones(1, dtype=F64), torch.tensor([[0.6, -1.1]], dtype=F64), (root @ root.mT)[None])


class Impulses:
    """Draw k is 0 in every row but those that belong to it, a unit vector in each."""

    def __init__(self):
        self.draws = 0

    def normal(self, shape, dtype):
        out, first = torch.zeros(shape, dtype=dtype), 1 + D * (1 + self.draws)
        self.draws += 1
        if first < len(out):
            out[first : first + D] = torch.eye(D, dtype=dtype)
        return out


def affine_of(sampler, estimate, times, path):
    """offset (D,) and one matrix (D,D) per input, the start in front: out = offset + sum_k input_k matrices[k]."""
    counted = Impulses()
    sampler(estimate, torch.zeros(1, D, dtype=F64), times, path, counted)
    x = torch.zeros(1 + D * (1 + counted.draws), D, dtype=F64)
    x[1 : 1 + D] = torch.eye(D, dtype=F64)
    offset, *rows = sampler(estimate, x, times, path, Impulses()).split([1, *[D] * (1 + counted.draws)])
    return offset[0], torch.stack(rows) - offset


def moments(sampler, mixture, times, path):
    """Mean (D,) and covariance (D,D) of what the sampler draws down to times[-1], from the true x at times[0]."""
    offset, (start, *fresh) = affine_of(sampler, mixture.estimate(path), times, path)
    mean, covariance = truth(mixture, times[0], path)
    spread = start.mT @ covariance @ start + sum(m.mT @ m for m in fresh)
    return offset + mean @ start, spread


def truth(mixture, t, path):
    covariance = path.alpha(t) ** 2 * mixture.covariance + path.sigma(t) ** 2 * torch.eye(D, dtype=F64)
    return path.alpha(t) * mixture.mean, covariance


def grid(steps):
    """Small steps at both ends, so that the first orders of multistep methods cost nothing."""
    u = torch.linspace(0, 1, steps + 1, dtype=F64)
    times = HIGH + (LOW - HIGH) * u**2 * (3 - 2 * u)
    times[-1] = LOW
    return times


def weak_error(node, mixture, steps, path):
    if node["name"] == "predictor_corrector":  # its Langevin steps have a bias of their own, of order snr^2
        node = {**node, "snr": 0.16 * (64 / steps) ** 0.5}
    mean, covariance = moments(build("sampler", node), mixture, grid(steps), path)
    true_mean, true_covariance = truth(mixture, grid(steps)[-1], path)
    return math.hypot((mean - true_mean).norm(), (covariance - true_covariance).norm())


@pytest.mark.parametrize("path", ["linear", "ve", *(pytest.param(p, marks=pytest.mark.slow) for p in ("cosine", "vp"))])
@pytest.mark.parametrize(("name", "node"), CASES, ids=[label(node) for _, node in CASES])
def test_moments_converge_at_the_weak_order(name, node, path):
    path, mixture, order = PATHS[path].build(PATHS_HERE[path]), data(), 2 if "brownian" in node else ORDERS.get(name, 1)
    errors = [weak_error(node, mixture, steps, path) for steps in (64, 128)]
    assert order - 0.25 <= math.log2(errors[0] / errors[1]) <= order + 0.6, errors
    assert errors[1] < {1: 0.2, 2: 0.01}[order]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_run_is_the_affine_map_of_its_start_and_draws(name):
    """The map that impulses tell, on other numbers."""
    path, mixture, sampler = build("path", "cosine"), data(), build("sampler", name)
    offset, matrices = affine_of(sampler, mixture.estimate(path), grid(7), path)
    inputs = torch.randn(len(matrices), 5, D, generator=generator(3), dtype=F64)
    draws = iter(inputs[1:])

    class Given:
        def normal(self, shape, dtype):
            return next(draws)

    out = sampler(mixture.estimate(path), inputs[0], grid(7), path, Given())
    assert torch.allclose(out, offset + torch.einsum("kbi,kij->bj", inputs, matrices), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [1.0, 0.4])
@pytest.mark.parametrize("path", PATHS_HERE)
def test_an_ancestral_step_and_its_second_order_kin_add_the_same_noise(path, eta):
    """Whatever the solver of the way down, the last draw of a step arrives as posterior noise (Ho et al., eq. 7)."""
    path, times = PATHS[path].build(PATHS_HERE[path]), torch.tensor([0.8, 0.5], dtype=F64)
    ratio = path.alpha(times[0]) * path.sigma(times[1]) / (path.alpha(times[1]) * path.sigma(times[0]))
    expected = eta * path.sigma(times[1]) * (1 - ratio**2).sqrt()
    for name in ("ancestral", "dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"):
        _, matrices = affine_of(build("sampler", {"name": name, "eta": eta}), data().estimate(path), times, path)
        assert torch.allclose(matrices[-1], expected * torch.eye(D, dtype=F64), rtol=1e-12)


@pytest.mark.parametrize("path", PATHS.names())
@pytest.mark.parametrize(("node", "sibling"), QUIET, ids=label)
def test_without_noise_it_is_its_deterministic_sibling_in_bits(node, sibling, path):
    path, mixture, times = build("path", path), data(), torch.linspace(1, 0, 8, dtype=F64)
    x = path.norm(times[0]) * mixture.sample(5, 1)
    out, expected = (
        build("sampler", n)(mixture.estimate(path), x, times, path, Random(0, rows=range(5))) for n in (node, sibling)
    )
    assert torch.equal(out, expected)


def test_every_sampler_whose_noise_can_be_turned_off_has_a_sibling():
    """Those without such a setting: the posterior is all they have."""
    assert set(STOCHASTIC) - {node["name"] for node, _ in QUIET} == {"consistency", "ddpm", "predictor_corrector"}


@pytest.mark.parametrize("path", PATHS_HERE)
def test_the_two_draws_of_a_brownian_step_arrive_as_those_of_two_ancestral_steps(path):
    """Where x0 is known, the halfway estimate changes nothing, and only the noise is left of a step."""
    path, point = PATHS[path].build(PATHS_HERE[path]), gaussian([0.6, -1.1], [0.0, 0.0])
    t, s = torch.tensor([0.8, 0.5], dtype=F64)
    whole = build("sampler", {"name": "dpmpp_sde", "brownian": True})
    _, found = affine_of(whole, point.estimate(path), torch.stack([t, s]), path)
    halves = torch.stack([t, halfway(path, t, s), s])
    _, expected = affine_of(build("sampler", "ancestral"), point.estimate(path), halves, path)
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12)
