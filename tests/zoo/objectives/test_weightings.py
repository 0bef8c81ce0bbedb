"""Values of single weightings that follow from their papers."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.registry import build

F64 = torch.float64
T = torch.tensor([0.05, 0.3, 0.5, 0.8, 0.97], dtype=F64)


def weight(weighting, path, prediction):
    path, weighting, prediction = build("path", path), build("weighting", weighting), build("prediction", prediction)
    return weighting(path, prediction, T)


def test_min_snr_of_each_prediction():
    """Hang et al. 2023: min(SNR, 5) on x0, / SNR on noise, / (SNR + 1) on v."""
    snr = build("path", "cosine").logsnr(T).exp()
    clipped = snr.clamp(max=5)
    for prediction, expected in {"x0": clipped, "eps": clipped / snr, "v": clipped / (snr + 1)}.items():
        assert torch.allclose(weight("min_snr", "cosine", prediction), expected)
    assert torch.allclose(weight({"name": "min_snr", "gamma": 2.0}, "cosine", "x0"), snr.clamp(max=2))


def test_truncated_snr_is_the_larger_of_two_losses():
    snr = build("path", "vp").logsnr(T).exp()
    assert torch.allclose(weight("truncated_snr", "vp", "x0"), snr.clamp(min=1))
    assert torch.allclose(weight("snr", "vp", "x0"), snr) and torch.equal(
        weight("snr", "vp", "eps"), torch.ones(5, dtype=F64)
    )


def test_uniform_is_one_whatever_is_predicted():
    assert torch.equal(weight("uniform", "linear", "velocity"), torch.ones(5, dtype=F64))


def test_velocity_loss_of_a_noise_network():
    """SiT: (drift variance / sigma)^2 = 1 / alpha^2 on the linear path."""
    assert torch.allclose(weight("sit_velocity", "linear", "eps"), 1 / (1 - T) ** 2)
    assert torch.allclose(weight("sit_velocity", "linear", "velocity"), torch.ones(5, dtype=F64))


def test_sigmoid_is_the_likelihood_bound_times_a_sigmoid():
    logsnr = build("path", "linear").logsnr(T)
    for bias in (0.0, -1.5):
        ratio = weight({"name": "sigmoid", "bias": bias}, "linear", "v") / weight("sit_likelihood", "linear", "v")
        assert torch.allclose(ratio, torch.sigmoid(bias - logsnr))
    assert torch.allclose(weight("sit_likelihood", "linear", "eps"), 1 / (T * (1 - T)))


@pytest.mark.parametrize("name", ["sigmoid", "sit_likelihood"])
def test_what_is_stated_for_noise_levels_is_one_integral_on_every_path(name):
    """Kingma & Gao 2023: integral over t of -logsnr' f(logsnr) does not depend on the path."""
    totals = []
    for path in (build("path", p) for p in ("linear", "cosine", "vp", "ve")):
        ends = path.time(torch.tensor([2.0, -3.0], dtype=F64))
        t = torch.linspace(*ends.tolist(), 20_001, dtype=F64)
        totals.append(torch.trapezoid(build("weighting", name).weight(path, t) * torch.exp(-path.logsnr(t).abs()), t))
    assert all(torch.allclose(t, totals[0], rtol=1e-6) for t in totals)
