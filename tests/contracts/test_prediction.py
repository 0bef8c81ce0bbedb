"""What every registered prediction promises, on every registered path."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.objective import Objective
from vidiff.registry import PATHS, PREDICTIONS, build

INSIDE = torch.cat(
    [torch.tensor([1e-3, 0.999], dtype=torch.float64), torch.linspace(0.02, 0.98, 47, dtype=torch.float64)]
)


@pytest.fixture(params=PREDICTIONS.names())
def prediction(request):
    return PREDICTIONS[request.param].build(PREDICTIONS[request.param].tiny)


@pytest.fixture(params=PATHS.names())
def path(request):
    return PATHS[request.param].build()


def pairs(t):
    g = torch.Generator().manual_seed(11)
    return (torch.randn(len(t), 3, 4, 5, 6, generator=g, dtype=torch.float64) for _ in range(2))


def error(found: Estimate, x0, noise):
    return max((found.x0 - x0).abs().max().item(), (found.noise - noise).abs().max().item())


def test_solving_the_target_gives_back_data_and_noise(path, prediction):
    x0, noise = pairs(INSIDE)
    x_t, y = path.point(x0, noise, INSIDE), prediction.target(path, x0, noise, INSIDE)
    estimate = prediction.solve(path, x_t, y, INSIDE)
    # x0 = (x_t - sigma noise) / alpha loses the digits that alpha is short of: `polynomial` ends at alpha 1e-9
    assert error(estimate, x0, noise) <= 1e-12 * max(1, 2e-3 / path.alpha(INSIDE).min())
    assert torch.allclose(prediction.ask(path, estimate, INSIDE), y, rtol=1e-12, atol=1e-12)
    assert torch.allclose(path.point(*estimate, INSIDE), x_t, rtol=1e-12, atol=1e-12)


def test_solves_at_pure_noise_or_is_refused_there(path, prediction):
    t = torch.ones(2, dtype=torch.float64)
    rest = build("weighting", "uniform"), build("times", "uniform"), build("noise", "gaussian")
    d = prediction.determinant(path, t)[0].abs()
    if d < 1e-6 or not d.isfinite():
        with pytest.raises(
            ValueError, match=r"is impossible at t = 1: .*\. Use .* interval: \[0, 0\.99?9?\]"
        ) as caught:
            Objective(path, prediction, *rest)
        advised = float(str(caught.value).rpartition(", ")[2].removesuffix("]."))
        Objective(path, prediction, *rest, interval=(0.0, advised))
        return
    Objective(path, prediction, *rest)
    x0, noise = pairs(t)
    estimate = prediction.solve(path, path.point(x0, noise, t), prediction.target(path, x0, noise, t), t)
    assert error(estimate, x0, noise) <= 1e-10  # alpha is 5e-5 at the end of ddpm_cosine


def test_where_sigma_is_zero_the_point_is_the_data_whatever_the_network_says(path, prediction):
    t = torch.zeros(2, dtype=torch.float64)
    x_t, y = pairs(t)
    estimate = prediction.solve(path, x_t, y, t)
    assert torch.allclose(estimate.x0, x_t, atol=1e-12) and estimate.noise.isfinite().all()


def test_time_per_frame_equals_time_per_sample_on_each_frame(path, prediction):
    t = torch.tensor([[0.1, 0.3, 0.5, 0.7], [0.2, 0.4, 0.6, 0.8]], dtype=torch.float64)  # (B,t)
    x0, noise = pairs(t)  # (2,3,4,5,6): 4 frames
    x_t, y = path.point(x0, noise, t), prediction.target(path, x0, noise, t)
    estimate = prediction.solve(path, x_t, y, t)
    assert error(estimate, x0, noise) <= 1e-12 * max(1, 2e-3 / path.alpha(t).min())
    for f in range(4):
        one = prediction.target(path, x0[:, :, f : f + 1], noise[:, :, f : f + 1], t[:, f])
        assert torch.equal(one, y[:, :, f : f + 1])


def test_what_the_network_is_told_is_finite_everywhere_and_ascends(path, prediction):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    label, scale = prediction.label(path, t), prediction.input_scale(path, t)
    assert label.isfinite().all() and label.abs().max() <= 2 and (label.diff() >= 0).all()
    assert scale.isfinite().all() and (scale > 0).all()


def test_computes_where_its_arguments_are(path, prediction):
    x, t = torch.empty(2, 3, 4, 5, 6, device="meta"), torch.empty(2, dtype=torch.float64, device="meta")
    estimate = prediction.solve(path, x, prediction.target(path, x, x, t), t)
    assert estimate.x0.device.type == estimate.noise.device.type == prediction.label(path, t).device.type == "meta"
    assert estimate.x0.dtype == estimate.noise.dtype == torch.float32


def test_determinant_is_that_of_the_two_equations(path, prediction):
    p, q = prediction.pair(path, INSIDE)
    rows = torch.stack([torch.stack([path.alpha(INSIDE), path.sigma(INSIDE)], -1), torch.stack([p, q], -1)], -2)
    assert torch.allclose(prediction.determinant(path, INSIDE), torch.linalg.det(rows), rtol=1e-9, atol=1e-12)
