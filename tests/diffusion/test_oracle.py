"""The oracle itself, against numerical integration and finite differences."""

import torch

import zoo.objectives  # noqa: F401
from tests.oracle import Mixture, three
from vidiff.diffusion.path import Path
from vidiff.registry import PATHS, PREDICTIONS


def test_belief_equals_bayes_by_quadrature():
    one = torch.float64
    mixture = Mixture(
        torch.tensor([0.7, 0.3], dtype=one),
        torch.tensor([[-0.6], [1.1]], dtype=one),
        torch.tensor([[[0.04]], [[0.25]]], dtype=one),
    )
    alpha, sigma = torch.tensor([0.8, 0.3], dtype=one), torch.tensor([0.5, 0.9], dtype=one)
    x = torch.tensor([[0.4], [-0.2]], dtype=one)
    grid = torch.linspace(-6, 6, 40001, dtype=one)
    for row in range(2):
        prior = sum(
            w * torch.exp(-((grid - m) ** 2) / (2 * v)) / v.sqrt()
            for w, m, v in zip(mixture.weights, mixture.means.flatten(), mixture.covariances.flatten())
        )
        post = prior * torch.exp(-((x[row] - alpha[row] * grid) ** 2) / (2 * sigma[row] ** 2))
        post = post / post.sum()
        mean = (post * grid).sum()
        x0, noise, variance = mixture.believe(x, alpha, sigma)
        assert torch.allclose(x0[row, 0], mean, atol=1e-9)
        assert torch.allclose(noise[row, 0], ((x[row, 0] - alpha[row] * mean) / sigma[row]), atol=1e-9)
        assert torch.allclose(variance[row, 0], (post * (grid - mean) ** 2).sum(), atol=1e-9)


def test_noise_is_minus_sigma_times_the_gradient_of_the_log_density():
    mixture, alpha, sigma = three(3), 0.6, 0.7
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    eye = torch.eye(3, dtype=torch.float64)
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights),
        torch.distributions.MultivariateNormal(alpha * mixture.means, alpha**2 * mixture.covariances + sigma**2 * eye),
    )
    (score,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    full = torch.full((5,), 1.0, dtype=torch.float64)
    _, noise, _ = mixture.believe(x.detach(), alpha * full, sigma * full)
    assert torch.allclose(noise, -sigma * score, atol=1e-12)


def test_samples_have_the_moments():
    mixture = three(2)
    x = mixture.sample(40_000, seed=3)
    assert torch.allclose(x.mean(0), mixture.mean, atol=0.02)
    assert torch.allclose(x.T.cov(), mixture.covariance, atol=0.03)


def test_the_network_reads_time_and_point_from_what_a_network_is_given():
    mixture, t = three(2), torch.tensor([0.13, 0.5, 0.81], dtype=torch.float64)
    x = mixture.sample(3, seed=4)
    for path in (p.build(p.tiny) for p in PATHS):
        assert isinstance(path, Path)
        for prediction in (p.build(p.tiny) for p in PREDICTIONS):
            y = mixture.net(prediction, path)(
                prediction.input_scale(path, t)[:, None] * x, prediction.label(path, t), None
            )
            expected = prediction.ask(path, mixture.estimate(path)(x, t), t)
            assert torch.allclose(y, expected, rtol=1e-8, atol=1e-8), (type(path), type(prediction))
