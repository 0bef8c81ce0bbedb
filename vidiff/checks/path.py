"""What every path promises: vidiff.diffusion.path.Path."""

from __future__ import annotations

import torch

from vidiff.checks.parts import apart, require
from vidiff.diffusion.path import Path
from vidiff.registry import Component

INSIDE = torch.linspace(0.003, 0.997, 113, dtype=torch.float64)
ALL = torch.linspace(0, 1, 101, dtype=torch.float64)


def make(component: Component) -> Path:
    """A tiny one."""
    return component.build(component.tiny)


def starts_clean_and_only_gets_noisier(component: Component) -> None:
    """At t = 0 alpha is 1 and sigma 0; from there to t = 1 alpha falls within [0,1], sigma rises, and the log-SNR falls
    strictly. A path that is noisy at 0 has its time the wrong way round: here t = 0 is clean."""
    path = make(component)
    alpha, sigma, logsnr = path.alpha(ALL), path.sigma(ALL), path.logsnr(ALL)
    require(alpha[0] == 1 and sigma[0] == 0, f"at t = 0 alpha is {alpha[0]:.6g} and sigma {sigma[0]:.6g}.")
    require(((alpha >= 0) & (alpha <= 1)).all(), "alpha leaves [0,1].")
    require((sigma >= 0).all(), "sigma is negative somewhere.")
    require((alpha.diff() <= 0).all() and (sigma.diff() >= 0).all(), "alpha rises or sigma falls somewhere.")
    require(logsnr[0] == float("inf") and (logsnr.diff() < 0).all(), "logsnr is not inf at 0 or does not fall.")


def derivatives_are_those_of_autograd(component: Component) -> None:
    """alpha_dot, sigma_dot and logsnr_dot are the derivatives in t of alpha, sigma and logsnr."""
    path = make(component)
    for name in ("alpha", "sigma", "logsnr"):
        t = INSIDE.clone().requires_grad_()
        out = getattr(path, name)(t)
        exact = torch.autograd.grad(out.sum(), t)[0] if out.requires_grad else torch.zeros_like(t)
        off = apart(getattr(path, f"{name}_dot")(INSIDE), exact, 1e-12, 1e-9)
        require(off <= 0, f"{name}_dot is off by {off:.3g}.")


def logsnr_is_that_of_alpha_and_sigma(component: Component) -> None:
    """logsnr = log(alpha^2 / sigma^2), the natural logarithm: twice log(alpha / sigma)."""
    path = make(component)
    expected = 2 * (path.alpha(INSIDE).log() - path.sigma(INSIDE).log())
    off = apart(path.logsnr(INSIDE), expected, 1e-11, 1e-12)
    require(off <= 0, f"it is off by {off:.3g}.")


def time_inverts_logsnr(component: Component) -> None:
    """time(logsnr(t)) = t from end to end, and beyond the ends it is the nearer end: samplers ask for the time of a
    noise level."""
    path = make(component)
    t = torch.cat([torch.tensor([0.0, 1e-7, 1e-4], dtype=torch.float64), INSIDE, ALL[-1:]])
    off = apart(path.time(path.logsnr(t)), t, 1e-12, 1e-9)
    require(off <= 0, f"it is off by {off:.3g}.")
    beyond = path.time(torch.tensor([float("inf"), 200.0, -200.0, -float("inf")], dtype=torch.float64))
    off = apart(beyond, torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64), 1e-12)
    require(off <= 0, f"at log-SNR inf, 200, -200, -inf it is {[round(b, 6) for b in beyond.tolist()]}.")


def works_elementwise(component: Component) -> None:
    """Every function of t works for any shape (a time per sample or per frame), in t's dtype, on t's device."""
    path = make(component)
    names = ("alpha", "sigma", "alpha_dot", "sigma_dot", "logsnr", "logsnr_dot", "norm", "label")
    for dtype in (torch.float32, torch.float64):
        for shape in ((), (2,), (2, 5)):
            t = torch.full(shape, 0.4, dtype=dtype)
            for name in names:
                out = getattr(path, name)(t)
                told = f"{name} gives {tuple(out.shape)} {out.dtype} for t {shape} {dtype}."
                require(out.shape == t.shape and out.dtype == dtype, told)
                require(out.isfinite().all(), f"{name} is not finite at 0.4.")
            require(path.time(path.logsnr(t)).shape == t.shape, f"time has another shape than {shape}.")
    t = torch.full((2, 5), 0.4, dtype=torch.float64, device="meta")  # stands for any other device
    for name in ("alpha", "sigma_dot", "logsnr", "label", "time"):
        out = path.time(path.logsnr(t)) if name == "time" else getattr(path, name)(t)
        there = out.device.type == "meta" and out.shape == (2, 5)
        require(there, f"{name} of times on another device is on {out.device.type}.")


def label_ascends(component: Component) -> None:
    """What the network is told of t is of order one (at most 2) and never falls: it is scaled by the network."""
    label = make(component).label(INSIDE)
    require(label.abs().max() <= 2, f"it is up to {label.abs().max().item():.3g}.")
    require((label.diff() >= 0).all() and label[-1] > label[0], "it falls somewhere, or never rises.")


def norm_is_the_deviation_of_unit_data(component: Component) -> None:
    """norm is the deviation of x_t for data of unit variance: norm^2 = alpha^2 + sigma^2."""
    path = make(component)
    off = apart(path.norm(ALL) ** 2, path.alpha(ALL) ** 2 + path.sigma(ALL) ** 2, 1e-8, 1e-12)
    require(off <= 0, f"it is off by {off:.3g}.")


def can_be_built_where_a_plan_is_made(component: Component) -> None:
    """Built under torch.device("meta") it is the same path: tables are made with device="cpu"."""
    path = make(component)
    with torch.device("meta"):
        planned = make(component)
    require(torch.equal(planned.sigma(ALL), path.sigma(ALL)), "sigma is another.")


CHECKS = (starts_clean_and_only_gets_noisier, derivatives_are_those_of_autograd, logsnr_is_that_of_alpha_and_sigma,
          time_inverts_logsnr, works_elementwise, label_ascends, norm_is_the_deviation_of_unit_data,
          can_be_built_where_a_plan_is_made)  # fmt: skip
