"""Spacings: where the steps of a sampler lie."""

from zoo.samplers.spacings import (  # noqa: F401
    beta,
    borrowed,
    dynamic_shifted,
    explicit,
    explicit_levels,
    karras,
    leading,
    linear_quadratic,
    linspace,
    logsnr,
    matched,
    polyexponential,
    quadratic,
    respaced,
    sections,
    shifted,
    stretched,
    trailing,
    uniform,
)
