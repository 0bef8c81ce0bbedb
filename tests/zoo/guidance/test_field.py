"""Guidance in the field of exact mixtures: log-densities, differentiated, and the solution of the guided ODE."""

import pytest
import torch

import zoo.samplers  # noqa: F401
from tests.oracle import gaussian, three
from vidiff.diffusion.guidance import Branch, Given
from vidiff.diffusion.sampler import start
from vidiff.registry import PATHS, build
from vidiff.types import Cond

F64 = torch.float64
SCALE = 2.5


def log_density(mixture, path, x, t):
    """log p_t(x) of alpha x0 + sigma noise, from the mixture's covariances."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    eye = torch.eye(x.shape[1], dtype=F64)
    terms = []
    for weight, mean, covariance in zip(mixture.weights, mixture.means, mixture.covariances, strict=True):
        law = torch.distributions.MultivariateNormal(
            alpha[:, None] * mean, alpha[:, None, None] ** 2 * covariance + sigma[:, None, None] ** 2 * eye
        )
        terms.append(weight.log() + law.log_prob(x))
    return torch.stack(terms).logsumexp(0)


def scene(path):
    """A class inside a mixture, and a weaker model of the class."""
    laws = {"cond": gaussian([0.5, -0.2, 1.0], [0.3, 0.1, 0.8]), "uncond": three(3)}
    laws["weak"] = gaussian([0.3, 0.1, 0.7], [0.6, 0.5, 1.0])
    given = Given(Branch(Cond()), Branch(Cond()), path)
    estimates = {name: law.estimate(path) for name, law in laws.items()}

    def evaluate(x, t, branches):
        return [estimates["cond" if branch is given.cond else "uncond"](x, t) for branch in branches]

    return laws, given, evaluate, estimates


class Weak:
    def __init__(self, estimate):
        self.estimate = estimate

    def estimator(self, cond, guidance=None):
        return self.estimate


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "ve"])
@pytest.mark.parametrize(("node", "powers"), [
    ({"name": "cfg", "scale": SCALE}, {"cond": SCALE, "uncond": 1 - SCALE}),
    ({"name": "interval", "guidance": {"name": "cfg", "scale": SCALE}, "sigma_min": 0.0, "sigma_max": None},
     {"cond": SCALE, "uncond": 1 - SCALE}),
    ({"name": "per_condition", "scales": [SCALE]}, {"cond": SCALE, "uncond": 1 - SCALE}),
    ({"name": "autoguidance", "weak": "runs/weak", "scale": SCALE}, {"cond": SCALE, "weak": 1 - SCALE}),
    ({"name": "autoguidance", "weak": "runs/weak", "scale": SCALE, "guidance": {"name": "cfg", "scale": 3.0}},
     {"cond": SCALE + 2, "weak": 1 - SCALE, "uncond": -2.0}),
], ids=["cfg", "interval", "per_condition", "autoguidance", "autoguidance of cfg"])  # fmt: skip
def test_the_guided_score_is_that_of_the_product_of_powers(path, node, powers):
    path = PATHS[path].build()
    laws, given, evaluate, estimates = scene(path)
    t = torch.tensor([0.15, 0.4, 0.6, 0.9], dtype=F64)
    x = path.point(*torch.randn(2, 4, 3, dtype=F64, generator=torch.Generator().manual_seed(0)), t).requires_grad_()
    exact = sum(power * log_density(laws[name], path, x, t) for name, power in powers.items())
    (score,) = torch.autograd.grad(exact.sum(), x)
    guidance = build("guidance", node, load=lambda run: Weak(estimates["weak"]))
    noise = guidance(evaluate, given)(x.detach(), t).noise
    assert torch.allclose(-noise / path.sigma(t)[:, None], score, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sampler", ["heun", "euler"])
def test_a_guided_sample_is_where_the_guided_ode_ends(sampler):
    """Gaussians with one covariance s^2: the guided velocity is that of N(mean_u + scale (mean_c - mean_u), s^2),
    whose ODE on the linear path is known."""
    path, s = PATHS["linear"].build(), 0.4
    means = {"cond": torch.tensor([0.5, -0.2, 1.0], dtype=F64), "uncond": torch.tensor([-0.3, 0.4, 0.1], dtype=F64)}
    laws = {name: gaussian(mean.tolist(), [s**2] * 3).estimate(path) for name, mean in means.items()}
    given = Given(Branch(Cond()), Branch(Cond()), path)
    evaluate = lambda x, t, branches: [laws["cond" if b is given.cond else "uncond"](x, t) for b in branches]  # noqa: E731
    estimate = build("guidance", {"name": "cfg", "scale": SCALE})(evaluate, given)
    noise, errors = torch.randn(5, 3, dtype=F64, generator=torch.Generator().manual_seed(1)), []
    target = means["uncond"] + SCALE * (means["cond"] - means["uncond"])
    for steps in (64, 128):
        made = build("sampler", {"name": sampler, "steps": steps})
        times = made.spacing(steps, path, (0.0, 1.0))
        out = made(estimate, start(path, noise, times[0]), times, path, None)
        errors.append((out - (target + s * noise)).abs().max().item())
    order = 2 if sampler == "heun" else 1
    assert errors[1] < 0.02 and errors[0] / errors[1] == pytest.approx(2**order, rel=0.25)
