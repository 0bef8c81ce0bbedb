"""Times: the density over t that training draws from."""

from zoo.objectives.times import logit_normal, lognormal_sigma, per_frame, shifted, stratified, uniform  # noqa: F401
