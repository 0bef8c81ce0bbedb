"""Noises: the prior, in training and at the start of sampling."""

from zoo.objectives.noises import frame_mixed, gaussian, offset  # noqa: F401
