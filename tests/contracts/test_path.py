"""What every registered path promises."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.registry import PATHS

INSIDE = torch.linspace(0.003, 0.997, 113, dtype=torch.float64)
ALL = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.fixture(params=PATHS.names())
def path(request):
    component = PATHS[request.param]
    return component.build(component.tiny)


def test_starts_clean_and_only_gets_noisier(path):
    alpha, sigma, logsnr = path.alpha(ALL), path.sigma(ALL), path.logsnr(ALL)
    assert alpha[0] == 1 and sigma[0] == 0
    assert ((alpha >= 0) & (alpha <= 1)).all() and (sigma >= 0).all()
    assert (alpha.diff() <= 0).all() and (sigma.diff() >= 0).all()
    assert (logsnr.diff() < 0).all() and logsnr[0] == float("inf")


def test_derivatives_are_those_of_autograd(path):
    for value, slope in ((path.alpha, path.alpha_dot), (path.sigma, path.sigma_dot), (path.logsnr, path.logsnr_dot)):
        t = INSIDE.clone().requires_grad_()
        out = value(t)
        exact = torch.autograd.grad(out.sum(), t)[0] if out.requires_grad else torch.zeros_like(t)
        assert torch.allclose(slope(INSIDE), exact, rtol=1e-9, atol=1e-12), value


def test_logsnr_is_that_of_alpha_and_sigma(path):
    expected = 2 * (path.alpha(INSIDE).log() - path.sigma(INSIDE).log())
    assert torch.allclose(path.logsnr(INSIDE), expected, rtol=1e-12, atol=1e-11)


def test_time_inverts_logsnr_from_end_to_end(path):
    t = torch.cat([torch.tensor([0.0, 1e-7, 1e-4], dtype=torch.float64), INSIDE, ALL[-1:]])
    assert torch.allclose(path.time(path.logsnr(t)), t, rtol=1e-9, atol=1e-12)
    beyond = path.time(torch.tensor([float("inf"), 200.0, -200.0, -float("inf")], dtype=torch.float64))
    assert torch.allclose(beyond, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (2,), (2, 5)])
def test_works_elementwise_in_any_shape_and_keeps_the_dtype(path, shape, dtype):
    t = torch.full(shape, 0.4, dtype=dtype)
    functions = (
        path.alpha, path.sigma, path.alpha_dot, path.sigma_dot, path.logsnr, path.logsnr_dot, path.norm, path.label
    )  # fmt: skip
    for function in functions:
        out = function(t)
        assert out.shape == t.shape and out.dtype == dtype and out.isfinite().all(), function
    assert path.time(path.logsnr(t)).shape == t.shape


def test_computes_where_its_times_are(path):
    t = torch.full((2, 5), 0.4, dtype=torch.float64, device="meta")  # stands for any other device
    for function in (path.alpha, path.sigma_dot, path.logsnr, path.label, lambda t: path.time(path.logsnr(t))):
        assert function(t).device.type == "meta" and function(t).shape == (2, 5)


def test_label_is_of_order_one_and_ascends(path):
    label = path.label(INSIDE)
    assert label.abs().max() <= 2 and (label.diff() >= 0).all() and label[-1] > label[0]


def test_norm_is_the_deviation_of_unit_data(path):
    assert torch.allclose(path.norm(ALL) ** 2, path.alpha(ALL) ** 2 + path.sigma(ALL) ** 2, rtol=1e-12)


def test_can_be_built_where_a_plan_is_made(path, request):
    component = PATHS[request.node.callspec.params["path"]]
    with torch.device("meta"):
        planned = component.build(component.tiny)
    assert torch.equal(planned.sigma(ALL), path.sigma(ALL))
