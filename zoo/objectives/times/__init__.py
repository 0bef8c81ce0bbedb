"""Times: the density over t that training draws from."""

from zoo.objectives.times import (  # noqa: F401
    cosine_interpolated_sigma,
    cosmap,
    log_logistic_sigma,
    logit_normal,
    lognormal_sigma,
    loguniform_sigma,
    mode,
    per_frame,
    shifted,
    shifted_by_grid,
    stratified,
    uniform,
    v_diffusion_sigma,
)
