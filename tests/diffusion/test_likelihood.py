"""Likelihoods by the probability-flow ODE against densities in closed form."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import Mixture, gaussian, three
from vidiff.diffusion.likelihood import log_likelihood
from vidiff.random import Random
from vidiff.registry import build

F64 = torch.float64
DATA = Path(__file__).parents[1] / "parity" / "data" / "samplers"


def log_density(mixture, x):
    components = zip(mixture.weights, mixture.means, mixture.covariances)
    logs = [w.log() + torch.distributions.MultivariateNormal(m, c).log_prob(x) for w, m, c in components]
    return torch.stack(logs).logsumexp(0)


@pytest.mark.parametrize("path", ["linear", "gvp", "cosine"])
def test_a_gaussian_has_its_own_density(path):
    """Where alpha is 0 at the end the prior is exact: RELIABILITY asks for 1e-5."""
    data, path = gaussian([0.4, -1.1, 0.2], [0.3, 0.05, 1.9]), build("path", path)
    x0 = data.sample(5, 3)
    found = log_likelihood(data.estimate(path), x0, path, rtol=1e-8, atol=1e-8)
    assert torch.allclose(found, log_density(data, x0), atol=1e-5)


def test_unit_data_on_a_path_whose_slope_is_infinite_at_zero():
    """N(0, 1) stays N(0, 1) on a variance-preserving path."""
    data, path = gaussian([0.0, 0.0], [1.0, 1.0]), build("path", "vp")
    x0 = data.sample(4, 3)
    found = log_likelihood(data.estimate(path), x0, path, rtol=1e-7, atol=1e-7)
    assert torch.allclose(found, log_density(data, x0), atol=1e-5)


def test_a_mixture_of_any_shape():
    data, path = three(4), build("path", "linear")
    x0 = data.sample(3, 5)
    found = log_likelihood(data.estimate(path), x0.reshape(3, 1, 2, 2, 1), path, rtol=1e-7, atol=1e-7)
    assert torch.allclose(found, log_density(data, x0), atol=1e-4)


def test_probes_have_the_exact_divergence_as_their_mean_and_belong_to_their_sample():
    data, path = three(4), build("path", "linear")
    x0 = data.sample(3, 5)
    tolerances = dict(rtol=1e-6, atol=1e-6)
    exact = log_likelihood(data.estimate(path), x0, path, **tolerances)
    probed = [
        log_likelihood(data.estimate(path), x0, path, Random(k, "p", rows=range(3)), **tolerances) for k in range(24)
    ]
    probed = torch.stack(probed)
    assert probed.std(0).max() > 1e-3
    assert ((probed.mean(0) - exact).abs() < 4.5 * probed.std(0) / math.sqrt(24)).all()
    alone = log_likelihood(data.estimate(path), x0[1:2], path, Random(7, "p", rows=[1]), **tolerances)
    assert torch.allclose(alone, probed[7, 1:2], rtol=1e-10)


def test_the_official_run_of_flow_matching():
    """Exact divergence, 50 midpoint steps from data to noise."""
    t = load_file(DATA / "flow_matching_ode_a.safetensors")
    mixture = Mixture(t["gmm.weights"], t["gmm.means"], t["gmm.stds"][:, None, None] ** 2 * torch.eye(4, dtype=F64))
    path, midpoint = build("path", "linear"), build("sampler", "midpoint")

    def fifty(slope, x, start, end):
        times = torch.linspace(start, end, 51, dtype=F64)
        for a, b in pairwise(times):
            x = midpoint.step(slope, x, a.expand(len(x)), b.expand(len(x)))
        return x

    x1 = t["likelihood/in.x1"]
    found = log_likelihood(mixture.estimate(path), x1, path, solver=fifty)
    assert torch.allclose(found, t["likelihood/out.log_p"], rtol=1e-9)
    better = log_likelihood(mixture.estimate(path), x1, path, rtol=1e-8, atol=1e-8)
    assert torch.allclose(better, t["likelihood/aux.exact_log_p"], atol=1e-5)
