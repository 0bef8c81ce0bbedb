"""Objectives: presets of path + prediction + weighting + times + noise, and those parts."""

from zoo.objectives import (  # noqa: F401
    diffusion_forcing,
    edm,
    epsilon,
    iddpm,
    masked_video,
    noises,
    paths,
    predictions,
    rectified_flow,
    times,
    v_prediction,
    vlb,
    weightings,
)
