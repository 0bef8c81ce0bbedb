"""Paths from data to noise: alpha(t), sigma(t)."""

from zoo.objectives.paths import (  # noqa: F401
    cosine,
    ddpm,
    ddpm_cosine,
    ddpm_jsd,
    ddpm_laplace,
    ddpm_scaled_linear,
    ddpm_sigmoid,
    ddpm_sigmoid_signal,
    ddpm_warmup,
    gvp,
    linear,
    polynomial,
    respaced,
    sigmoid,
    ve,
    ve_geometric,
    vp,
    zero_snr,
)
