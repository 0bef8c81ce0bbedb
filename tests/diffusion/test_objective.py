"""Objectives against closed forms: what a perfect, a zero and a wrong network lose."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from tests.oracle import gaussian, three
from tests.teacher import built
from vidiff.diffusion.objective import Objective, full_precision
from vidiff.random import generator
from vidiff.registry import OBJECTIVES, PATHS, PREDICTIONS, WEIGHTINGS, build
from vidiff.types import Cond

F64 = torch.float64
VARIANCES = [0.3, 0.05, 1.7]
GAUSS = gaussian([0.0, 0.0, 0.0], VARIANCES)
SHAPE = (3, 1, 1, 1)
REFUSED = {
    *((p, q) for p in ("linear", "gvp", "cosine", "sigmoid") for q in ("eps", "score")),
    ("sigmoid", "velocity"),
    *(("polynomial", q) for q in ("eps", "score", "velocity")),
    *((p, q) for p in ("ddpm_jsd", "zero_snr") for q in ("eps", "score")),
}


def objective(path="linear", prediction="v", weighting="uniform", interval=(0.0, 0.98)):
    named = dict(path=path, prediction=prediction, weighting=weighting, times="uniform", noise="gaussian")
    return Objective(**{kind: build(kind, name) for kind, name in named.items()}, interval=interval)


def draws(num, mixture=GAUSS, seed=1):
    x0 = mixture.sample(num, seed)
    noise = torch.randn(x0.shape, generator=generator(seed, "noise"), dtype=F64)
    return x0.reshape(num, -1, 1, 1, 1), noise.reshape(num, -1, 1, 1, 1)


def at(t, num):
    return torch.full((num,), t, dtype=F64)


def zero(x, label, cond):
    return torch.zeros_like(x)


def rows(o, net, x0, noise, t):
    """The weighted loss of each row."""
    return o.weighting(o.path, o.prediction, t) * o.loss_at(net, x0, noise, t, Cond())["mse"]


@pytest.mark.parametrize("path", PATHS.names())
@pytest.mark.parametrize("prediction", PREDICTIONS.names())
def test_refusals_are_exactly_the_impossible_cells(path, prediction):
    if (path, prediction) not in REFUSED:
        objective(path, prediction, interval=(0.0, 1.0))
        return
    last = 0.99 if path == "polynomial" and prediction != "velocity" else 0.999
    infinite, blind = "its target is infinite there", "alpha is 0 there, so x_t says nothing about x0"
    with pytest.raises(ValueError) as caught:
        objective(path, prediction, interval=(0.0, 1.0))
    assert str(caught.value) == (
        f"{prediction} prediction on the {path} path is impossible at t = 1: "
        f"{infinite if (path, prediction) == ('sigmoid', 'velocity') else blind}. "
        f"Use prediction: v or x0, another path, or interval: [0, {last:g}]."
    )
    objective(path, prediction, interval=(0.0, last))


@pytest.mark.parametrize("interval", [(0.5, 0.5), (0.8, 0.2), (-0.1, 1.0), (0.0, 1.5)])
def test_refuses_an_interval_that_is_none(interval):
    with pytest.raises(ValueError, match=r"interval is \[.*\]: it must satisfy 0 <= low < high <= 1\."):
        objective(interval=interval)


@pytest.mark.parametrize("path", ["linear", "cosine", "vp", "ve"])
@pytest.mark.parametrize("prediction", PREDICTIONS.names())
def test_a_perfect_network_loses_the_mmse(path, prediction):
    """One Gaussian with variances l: MMSE(x0) = mean l sigma^2 / (alpha^2 l + sigma^2), times (D / sigma)^2."""
    o, num = objective(path, prediction), 4000
    x0, noise = draws(num)
    net = GAUSS.net(o.prediction, o.path)
    spread = torch.tensor(VARIANCES, dtype=F64)
    for t in (0.05, 0.4, 0.9):
        one = torch.tensor(t, dtype=F64)
        alpha, sigma = o.path.alpha(one), o.path.sigma(one)
        mmse = (spread * sigma**2 / (alpha**2 * spread + sigma**2)).mean()
        loss = rows(o, net, x0, noise, at(t, num))
        factor = {
            "x0": 1.0, "eps": alpha / sigma, "score": alpha / sigma**2, "v": (alpha**2 + sigma**2) / sigma,
            "velocity": (o.path.alpha_dot(one) * sigma - o.path.sigma_dot(one) * alpha) / sigma,
            "edm": (alpha**2 + sigma**2).sqrt() / sigma,
        }[prediction]  # fmt: skip
        assert abs(loss.mean() - mmse * factor**2) < 5 * loss.std() / num**0.5


def test_a_perfect_network_of_a_mixture_loses_its_posterior_variance():
    mixture, num, t = three(3), 4000, 0.35
    o = objective("cosine", "x0")
    x0, noise = draws(num, mixture)
    loss = rows(o, mixture.net(o.prediction, o.path), x0, noise, at(t, num))
    x_t = o.path.point(x0, noise, at(t, num)).flatten(1)
    least = mixture.believe(x_t, o.path.alpha(at(t, num)), o.path.sigma(at(t, num))).variance.mean(1)
    difference = loss - least
    assert abs(difference.mean()) < 5 * difference.std() / num**0.5


@pytest.mark.parametrize("weighting", WEIGHTINGS.names())
@pytest.mark.parametrize("prediction", PREDICTIONS.names())
def test_no_perturbation_of_a_perfect_network_is_better(weighting, prediction):
    """The derivative of the loss in any direction is 0 at the optimum, and every way off costs."""
    o, num = objective("linear", prediction, weighting), 2000
    mixture = three(3)
    x0, noise = draws(num, mixture)
    perfect, t = mixture.net(o.prediction, o.path), torch.linspace(0.1, 0.9, num, dtype=F64)

    def net(size):
        return lambda x, label, cond: perfect(x, label, cond) + size * torch.cos(3 * x)

    here, plus, minus = (rows(o, net(size), x0, noise, t) for size in (0.0, 0.1, -0.1))
    slope = plus - minus
    assert abs(slope.mean()) < 5 * slope.std() / num**0.5
    assert (plus + minus - 2 * here).mean() > 0


def test_an_untrained_edm_network_loses_exactly_one_at_every_noise_level():
    """Karras et al. 2022, sec. 5: with sigma_data that of the data, E|target|^2 = 1 and the weight of F is 1."""
    for path in ("ve", "linear", "cosine", "ddpm"):
        for std in (1.0, 0.5):
            named = {"name": "edm", "sigma_data": std}
            o = OBJECTIVES["edm"].build({"path": path, "prediction": named, "weighting": named})
            mixture, num = gaussian([0.0] * 3, [std**2] * 3), 6000
            x0, noise = draws(num, mixture)
            for t in (0.01, 0.3, 0.97):
                loss = rows(o, zero, x0, noise, at(t, num))
                assert abs(loss.mean() - 1) < 5 * loss.std() / num**0.5
                assert torch.allclose(o.weighting(o.path, o.prediction, at(t, 2)), torch.ones(2, dtype=F64), rtol=1e-12)


def test_what_a_zero_network_loses():
    """E|noise|^2 = 1, E|v|^2 = alpha^2 + sigma^2 m, E|velocity|^2 = alpha'^2 m + sigma'^2 with m = E|x0|^2 / d."""
    mixture, num, t = three(3), 8000, torch.tensor(0.6, dtype=F64)
    m = (mixture.covariance.trace() + (mixture.mean**2).sum()) / 3
    x0, noise = draws(num, mixture)
    for path in ("linear", "vp"):
        p = PATHS[path].build()
        expected = {
            "eps": 1.0,
            "x0": m,
            "v": p.alpha(t) ** 2 + p.sigma(t) ** 2 * m,
            "velocity": p.alpha_dot(t) ** 2 * m + p.sigma_dot(t) ** 2,
            "score": p.sigma(t) ** -2,
        }
        for prediction, value in expected.items():
            loss = rows(objective(path, prediction), zero, x0, noise, at(t, num))
            assert abs(loss.mean() - value) < 5 * loss.std() / num**0.5, (path, prediction)


@pytest.mark.parametrize("weighting", [w for w in WEIGHTINGS.names() if w != "uniform"])
def test_a_stated_weighting_gives_the_same_loss_and_gradient_behind_every_prediction(weighting):
    """The same wrong belief, held by networks of six kinds: losses and gradients with respect to it agree."""
    x0, noise = draws(4, three(3))
    t = torch.tensor([0.1, 0.35, 0.6, 0.9], dtype=F64)
    losses, gradients = [], []
    for name in PREDICTIONS.names():
        o = objective("cosine", name, weighting)
        x_t = o.path.point(x0, noise, t)
        belief = (x0 + 0.3 * torch.sin(x_t)).requires_grad_()
        alpha, sigma = (c.reshape(-1, 1, 1, 1, 1) for c in (o.path.alpha(t), o.path.sigma(t)))
        y = o.prediction.target(o.path, belief, (x_t - alpha * belief) / sigma, t)
        loss = o.loss_at(lambda x, label, cond, y=y: y, x0, noise, t, Cond())["loss"]
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, belief)[0])
    for loss, gradient in zip(losses[1:], gradients[1:]):
        assert torch.allclose(loss, losses[0], rtol=1e-10)
        assert torch.allclose(gradient, gradients[0], rtol=1e-8, atol=1e-12)


def test_the_loss_is_the_mean_of_weight_times_mse_and_the_target_takes_no_gradient():
    o = objective("linear", "velocity", "min_snr")
    x0, noise = draws(5, three(3))
    x0.requires_grad_()
    t = torch.tensor([0.1, 0.2, 0.5, 0.7, 0.9], dtype=F64)
    fixed = torch.randn(5, *SHAPE, generator=generator(3), dtype=F64).requires_grad_()
    out = o.loss_at(lambda x, label, cond: fixed, x0, noise, t, Cond())
    snr = ((1 - t) / t) ** 2
    weight = snr.clamp(max=5.0) * t**2  # (sigma/D)^2, D = 1
    mse = ((fixed - (noise - x0)) ** 2).mean((1, 2, 3, 4))
    assert (
        torch.allclose(out["loss"], (weight * mse).mean())
        and torch.allclose(out["mse"], mse)
        and torch.equal(out["time"], t)
    )
    out["loss"].backward()
    assert fixed.grad.abs().sum() > 0 and x0.grad is None


def test_with_a_time_per_frame_each_frame_has_its_own_weight():
    o, t = objective("linear", "x0", "snr"), torch.tensor([[0.2, 0.5, 0.8], [0.3, 0.6, 0.9]], dtype=F64)
    x0, noise = torch.randn(2, 2, 4, 3, 5, 6, generator=generator(4), dtype=F64).unbind(0)
    x0, noise = x0.transpose(1, 2), noise.transpose(1, 2)  # (2,3,4,5,6): pairwise different sizes
    t = torch.cat([t, t[:, :1] / 2], 1)  # (2,4)
    out = o.loss_at(zero, x0, noise, t, Cond())
    expected = torch.stack([((1 - t[:, f]) / t[:, f]) ** 2 * (x0[:, :, f] ** 2).mean((1, 2, 3)) for f in range(4)])
    assert torch.allclose(out["loss"], expected.mean())
    assert out["mse"].shape == (2,) and torch.allclose(out["time"], t.mean(1))


def test_the_network_gets_the_scaled_input_the_label_and_full_precision_comes_out():
    o = objective("ve", "edm", interval=(0.0, 1.0))
    seen = {}

    def net(x, label, cond):
        seen.update(x=x, label=label, cond=cond)
        return x.to(torch.bfloat16)

    x0, noise = (a.to(torch.bfloat16) for a in draws(3))
    t, cond = torch.tensor([0.01, 0.1, 0.5], dtype=F64), Cond()
    out = o.loss_at(net, x0, noise.float(), t, cond)
    sigma = 80 * t
    assert seen["x"].dtype == seen["label"].dtype == out["loss"].dtype == torch.float32 and seen["cond"] is cond
    x_t = x0.float() + sigma.float().reshape(-1, 1, 1, 1, 1) * noise.float()
    assert torch.allclose(seen["x"], x_t / (1 + sigma.float() ** 2).sqrt().reshape(-1, 1, 1, 1, 1), rtol=1e-5)
    assert torch.allclose(seen["label"], (sigma.log() / 4).float())
    assert o.estimate(net, x0, t, cond).x0.dtype == torch.float32
    assert [full_precision(d) for d in (torch.float16, torch.bfloat16, torch.float32, F64)] == [torch.float32] * 3 + [
        F64
    ]


@pytest.mark.parametrize("name", OBJECTIVES.names())
def test_estimate_of_a_perfect_network_is_the_exact_belief(name):
    o, mixture = built(OBJECTIVES[name]), three(3)
    x0, noise = draws(4, mixture)
    t = torch.tensor([0.02, 0.3, 0.6, 0.95], dtype=F64)
    x_t = o.path.point(x0, noise, t)
    net = mixture.net(o.prediction, o.path)

    def head(*args):
        return torch.cat([net(*args)] * o.outputs, dim=1)  # a learned variance doubles the channels

    found, exact = o.estimate(head, x_t, t, Cond()), mixture.estimate(o.path)(x_t, t)
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, exact))
