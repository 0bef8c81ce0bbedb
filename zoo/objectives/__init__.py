"""Objectives: presets of path + prediction + weighting + times + noise, and those parts."""

from zoo.objectives import (  # noqa: F401
    diffusion_forcing,
    edm,
    epsilon,
    iddpm,
    l1,
    masked_video,
    noises,
    paths,
    predictions,
    rectified_flow,
    score_matching,
    times,
    v_prediction,
    vlb,
    weightings,
    x0_prediction,
)
