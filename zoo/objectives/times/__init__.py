"""Times: the density over t that training draws from."""

from zoo.objectives.times import logit_normal, lognormal_sigma, shifted, stratified, uniform  # noqa: F401
