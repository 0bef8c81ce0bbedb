"""Closed forms of losses that are not a weighted mean square, and of weighted ones at given times."""

import math

import pytest
import torch

import zoo.objectives  # noqa: F401
from tests.oracle import gaussian
from vidiff.diffusion.weighting import error_ratio
from vidiff.random import generator
from vidiff.registry import WEIGHTINGS, build
from vidiff.types import Cond

F64 = torch.float64
VARIANCES = torch.tensor([0.3, 0.05, 1.7], dtype=F64)
GAUSS = gaussian([0.0] * 3, VARIANCES.tolist())
NUM = 6000
PRESETS = ["epsilon", "x0_prediction", "v_prediction", "rectified_flow", "score_matching", "edm", "iddpm", "vlb", "l1"]


def draws(num=NUM, seed=1):
    x0 = GAUSS.sample(num, seed)
    noise = torch.randn(x0.shape, generator=generator(seed, "noise"), dtype=F64)
    return x0.reshape(num, 3, 1, 1, 1), noise.reshape(num, 3, 1, 1, 1)


def posterior(path, t):
    """The variance of x0 given x_t, per coordinate."""
    alpha, sigma = path.alpha(t), path.sigma(t)
    return VARIANCES * sigma**2 / (alpha**2 * VARIANCES + sigma**2)


def head(o, extra=None):
    """A perfect network; `extra` is its second half."""
    net = GAUSS.net(o.prediction, o.path)
    return lambda x, label, cond: torch.cat([net(x, label, cond), *([] if extra is None else [extra(x)])], dim=1)


def each(o, net, t):
    """The loss of each of NUM draws at one time, and a check that their mean is what `loss_at` says."""
    (x0, noise), at = draws(), torch.full((NUM,), t, dtype=F64)
    out = o.loss_at(net, x0, noise, at, Cond())
    if "bound" in out:
        rows = o.scale * out["bound"]
    else:
        error = o.output(net, o.path.point(x0, noise, at), at, Cond()) - o.prediction.target(o.path, x0, noise, at)
        rows = o.penalty(error, at)
    assert torch.allclose(rows.mean(), out["loss"])
    return rows


def agrees(rows, expected):
    return abs(rows.mean() - expected) < 5 * rows.std() / len(rows) ** 0.5


@pytest.mark.parametrize("weighting", [w for w in WEIGHTINGS.names() if w != "uniform"])
@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_a_perfect_network_pays_the_stated_weight_of_the_least_error_at_every_time(weighting, prediction):
    o = build("objective", {"name": "v_prediction", "prediction": prediction, "weighting": weighting, "path": "vp"})
    x0, noise = draws()
    for t in (0.02, 0.3, 0.8):
        at = torch.full((NUM,), t, dtype=F64)
        mse = o.loss_at(head(o), x0, noise, at, Cond())["mse"]
        loss = o.weighting.loss(o.path, o.prediction, at, mse)
        one = at[:1]
        of_x0 = 1 / error_ratio("x0", o.path, build("prediction", "x0"), one)  # 1: the error of x0 itself
        stated = error_ratio(o.weighting.space, o.path, build("prediction", "x0"), one)
        expected = o.weighting.weight(o.path, one) * stated * of_x0 * posterior(o.path, one).mean()
        assert agrees(loss, expected), t


def test_the_least_absolute_error_is_that_of_a_normal_law():
    """E|e| = sqrt(2/pi) std; the posterior of Gaussian data is Gaussian."""
    for prediction, factor in (("x0", 1.0), ("eps", 1.0)):
        o = build("objective", {"name": "l1", "prediction": prediction, "path": "vp"})
        one = torch.tensor([0.35], dtype=F64)
        if prediction == "eps":
            factor = (o.path.alpha(one) / o.path.sigma(one)).item()
        expected = factor * math.sqrt(2 / math.pi) * posterior(o.path, one).sqrt().mean()
        assert agrees(each(o, head(o), 0.35), expected)


def test_a_weighted_absolute_error_is_the_same_behind_every_prediction():
    x0, noise = draws(5)
    t, losses = torch.linspace(0.1, 0.9, 5, dtype=F64), []
    for name in ("x0", "eps", "v", "velocity", "edm"):
        o = build("objective", {"name": "l1", "prediction": name, "weighting": "min_snr", "path": "vp"})
        x_t = o.path.point(x0, noise, t)
        alpha, sigma = (c.reshape(-1, 1, 1, 1, 1) for c in (o.path.alpha(t), o.path.sigma(t)))
        belief = x0 + 0.3 * torch.sin(x_t)
        y = o.prediction.target(o.path, belief, (x_t - alpha * belief) / sigma, t)
        losses.append(o.loss_at(lambda *_, y=y: y, x0, noise, t, Cond())["loss"])
    assert torch.allclose(torch.stack(losses), losses[0].expand(5), rtol=1e-10)


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_the_bound_of_a_perfect_network_with_a_fixed_variance(kind):
    """KL = 1/2 (r - 1 - log r) + rate^2 MMSE / (2 variance), r = beta~ / variance, in bits, times the steps."""
    o = build("objective", {"name": "vlb", "path": {"name": "ddpm", "num_timesteps": 50}, "variance": kind})
    t = torch.tensor([0.4], dtype=F64)
    s = t - 1 / 50
    alpha, before = o.path.alpha(t), o.path.alpha(s)
    beta = 1 - (alpha / before) ** 2
    small = beta * o.path.sigma(s) ** 2 / o.path.sigma(t) ** 2
    variance = small if kind == "fixed_small" else beta
    rate = before * beta / o.path.sigma(t) ** 2  # Ho et al. 2020, eq. 7
    kl = 0.5 * (small / variance - 1 - (small / variance).log())
    kl = kl + rate**2 * posterior(o.path, t).mean() / (2 * variance)
    assert agrees(each(o, head(o), 0.4), 50 * kl / math.log(2))
    # and this is what the effective weighting counts
    weight = o.weighting.weight(o.path, t) * posterior(o.path, t).mean()
    assert torch.allclose(weight, 50 * rate**2 * posterior(o.path, t).mean() / (2 * variance) / math.log(2))


def test_the_bound_is_least_for_the_variance_of_the_true_reverse_step():
    """Gaussian data: p(x_s | x_t) has the variance beta~ + rate^2 Var[x0 | x_t] in each coordinate."""
    path = {"name": "ddpm", "num_timesteps": 50}
    o = build("objective", {"name": "vlb", "path": path, "variance": "learned", "scale": 1.0})
    t = torch.tensor([0.4], dtype=F64)
    exact = (o.chain.variances(t)[1] + o.chain.rate(t) ** 2 * posterior(o.path, t)).log()

    def answering(shift):
        return head(o, lambda x: (exact + shift).reshape(1, 3, 1, 1, 1).expand(len(x), 3, 1, 1, 1))

    here, above, below = (each(o, answering(shift), 0.4) for shift in (0.0, 0.2, -0.2))
    assert ((above - here).mean() > 0) and ((below - here).mean() > 0)
    slope = each(o, answering(0.01), 0.4) - each(o, answering(-0.01), 0.4)
    assert agrees(slope, 0.0)


def test_the_hybrid_loss_is_the_mean_square_and_a_share_of_the_bound():
    path, x0, noise = {"name": "ddpm", "num_timesteps": 50}, *draws(4)
    t = torch.tensor([0.02, 0.2, 0.5, 1.0], dtype=F64)
    answer = torch.randn(4, 6, 1, 1, 1, generator=generator(2), dtype=F64)
    plain = build("objective", {"name": "epsilon", "path": path})
    bound = build("objective", {"name": "vlb", "path": path, "scale": 1.0})
    hybrid = build("objective", {"name": "iddpm", "path": path, "bound": 0.3})
    one = plain.loss_at(lambda *_: answer[:, :3], x0, noise, t, Cond())["loss"]
    two = bound.loss_at(lambda *_: answer, x0, noise, t, Cond())["loss"]
    assert torch.allclose(hybrid.loss_at(lambda *_: answer, x0, noise, t, Cond())["loss"], one + 0.3 * two)


def test_the_steps_of_a_chain_are_those_of_its_table():
    assert build("objective", {"name": "iddpm", "path": {"name": "ddpm", "num_timesteps": 50}}).chain.num_steps == 50
    assert build("objective", {"name": "vlb", "path": "cosine", "prediction": "v"}).chain.num_steps == 1000
    assert build("objective", {"name": "vlb", "path": "vp", "num_steps": 30}).scale == 30.0


@pytest.mark.parametrize("name", PRESETS)
def test_the_target_takes_no_gradient(name):
    o, (x0, noise) = build("objective", name), draws(4)
    x0.requires_grad_()
    noise.requires_grad_()
    answer = torch.randn(4, 3 * o.outputs, 1, 1, 1, generator=generator(2), dtype=F64).requires_grad_()
    t = torch.tensor([0.001, 0.3, 0.6, 0.9], dtype=F64)
    o.loss_at(lambda *_: answer, x0, noise, t, Cond())["loss"].backward()
    assert answer.grad.abs().sum() > 0 and x0.grad is None and noise.grad is None


@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_zero_terminal_snr_can_be_trained_down_to_pure_noise(prediction):
    """At t = 1 x_t is noise alone; the loss is finite, and the perfect x0 there is the mean of the data."""
    o = build(
        "objective", {"name": "v_prediction", "path": "zero_snr", "prediction": prediction, "weighting": "min_snr"}
    )
    x0, noise = draws(4)
    t = torch.tensor([0.5, 0.999, 0.9999, 1.0], dtype=F64)
    answer = torch.zeros(4, 3, 1, 1, 1, dtype=F64, requires_grad=True)
    loss = o.loss_at(lambda *_: answer, x0, noise, t, Cond())["loss"]
    loss.backward()
    assert loss.isfinite() and answer.grad.isfinite().all()
    x_t = o.path.point(x0, noise, t)
    assert torch.equal(x_t[-1], noise[-1])
    estimate = o.estimate(head(o), x_t, t, Cond())
    assert torch.allclose(estimate.x0[-1], torch.zeros(3, 1, 1, 1, dtype=F64), atol=1e-9)
    with pytest.raises(ValueError, match="eps prediction on the zero_?snr path is impossible at t = 1"):
        build("objective", {"name": "epsilon", "path": "zero_snr"})
