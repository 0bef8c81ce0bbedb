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


def test_soft_min_snr_is_min_snr_without_its_corner():
    snr = build("path", "cosine").logsnr(T).exp()
    assert torch.allclose(weight({"name": "soft_min_snr", "gamma": 4.0}, "cosine", "x0"), 4 * snr / (snr + 4))
    assert torch.allclose(weight("soft_min_snr", "cosine", "v"), 4 * snr / (snr + 4) / (snr + 1))


def test_soft_min_snr_of_k_diffusion():
    """Its "soft-min-snr" weighs F, EDM's network, by (sigma sigma_data)^2 / (sigma^2 + sigma_data^2)^2."""
    path, data = build("path", "ve"), 0.5
    sigma = path.sigma(T)
    prediction = build("prediction", {"name": "edm", "sigma_data": data})
    found = build("weighting", {"name": "soft_min_snr", "gamma": data**-2})(path, prediction, T)
    published = (sigma * data) ** 2 / (sigma**2 + data**2) ** 2
    ratio = found / published
    assert torch.allclose(ratio, ratio[0].expand_as(ratio)) and torch.allclose(ratio[0], torch.tensor(1.0, dtype=F64))


def test_p2_and_debiased_weigh_the_noise_loss():
    snr = build("path", "vp").logsnr(T).exp()
    assert torch.allclose(weight("p2", "vp", "eps"), 1 / (1 + snr))
    assert torch.allclose(weight({"name": "p2", "gamma": 0.5, "k": 2.0}, "vp", "eps"), (2 + snr) ** -0.5)
    assert torch.allclose(weight("p2", "vp", "v"), snr / (1 + snr) ** 2)
    assert torch.allclose(weight("debiased", "vp", "eps"), snr**-0.5)
    assert torch.allclose(weight("debiased", "vp", "x0"), snr**0.5)


def test_sd3_weights_are_flow_losses_of_another_density():
    """On the linear path sigma_sqrt is the plain loss; cosmap times du is the density of times `cosmap`."""
    assert torch.allclose(weight("sd3_sigma_sqrt", "linear", "velocity"), torch.ones(5, dtype=F64))
    u = torch.linspace(0.01, 0.99, 99, dtype=F64)
    cosmap, path = build("times", "cosmap"), build("path", "linear")
    du = 1e-6
    slope = (cosmap.quantile(u + du, path, (0, 1)) - cosmap.quantile(u - du, path, (0, 1))) / (2 * du)
    density = build("weighting", "sd3_cosmap").weight(path, cosmap.quantile(u, path, (0, 1)))
    assert torch.allclose(density, 1 / slope, rtol=1e-6)


def test_learned_uncertainty_starts_as_the_weighting_it_divides_and_learns_the_log_of_its_loss():
    """At the optimum exp(u) is the weighted loss of each noise level: every level then costs 1 + u."""
    path, prediction = build("path", "ve"), build("prediction", "edm")
    learned = build("weighting", {"name": "uncertainty", "weighting": "edm", "channels": 32})
    t = path.time(torch.linspace(6, -6, 64, dtype=F64))
    error = 0.3 + torch.sigmoid(path.logsnr(t) / 2)
    plain = build("weighting", "edm").loss(path, prediction, t, error)
    assert torch.allclose(learned.loss(path, prediction, t, error), plain)
    assert learned.space == "x0" and [name for name, _ in learned.named_parameters()] == ["slope", "level"]
    assert list(learned.state_dict()) == ["slope", "level"]  # the frequencies are the same in every process
    learned = learned.double()
    optimizer = torch.optim.LBFGS(learned.parameters(), max_iter=400, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = learned.loss(path, prediction, t, error).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.allclose(learned.uncertainty(path, t).exp(), plain, rtol=0.02)
    assert torch.allclose(learned(path, prediction, t) * error, torch.ones(64, dtype=F64), rtol=0.02)
    per_frame = t.reshape(4, 16)
    assert learned.loss(path, prediction, per_frame, error.reshape(4, 16)).shape == (4, 16)
