"""Paths from data to noise: alpha(t), sigma(t)."""

from zoo.objectives.paths import (  # noqa: F401
    cosine,
    ddpm,
    ddpm_cosine,
    ddpm_scaled_linear,
    ddpm_sigmoid,
    gvp,
    linear,
    sigmoid,
    ve,
    ve_geometric,
    vp,
)
