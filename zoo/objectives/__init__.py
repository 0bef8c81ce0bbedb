"""Objectives: presets of path + prediction + weighting + times + noise, and those parts."""

from zoo.objectives import (  # noqa: F401
    edm,
    epsilon,
    iddpm,
    noises,
    paths,
    predictions,
    rectified_flow,
    times,
    v_prediction,
    weightings,
)
