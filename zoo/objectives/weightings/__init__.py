"""Weightings: how much each noise level counts."""

from zoo.objectives.weightings import (  # noqa: F401
    edm,
    fused_snr,
    min_snr,
    sigmoid,
    sit_likelihood,
    sit_velocity,
    snr,
    truncated_snr,
    uniform,
)
