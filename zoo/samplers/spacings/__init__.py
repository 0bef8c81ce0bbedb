"""Spacings: where the steps of a sampler lie."""

from zoo.samplers.spacings import karras, leading, logsnr, quadratic, respaced, shifted, uniform  # noqa: F401
