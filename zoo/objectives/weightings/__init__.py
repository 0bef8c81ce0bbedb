"""Weightings: how much each noise level counts."""

from zoo.objectives.weightings import (  # noqa: F401
    debiased,
    edm,
    fused_snr,
    min_snr,
    p2,
    sd3_cosmap,
    sd3_sigma_sqrt,
    sigmoid,
    sit_likelihood,
    sit_velocity,
    snr,
    soft_min_snr,
    truncated_snr,
    uncertainty,
    uniform,
)
