"""Guidance: how the beliefs with and without a condition are combined."""

from zoo.guidance import (  # noqa: F401
    apg,
    autoguidance,
    cfg,
    cfg_zero,
    dynamic_threshold,
    interval,
    none,
    pag,
    per_condition,
    rescale,
    stg,
)
