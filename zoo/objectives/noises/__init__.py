"""Noises: the prior, in training and at the start of sampling."""

from zoo.objectives.noises import frame_mixed, frame_progressive, gaussian, offset  # noqa: F401
