"""Samplers: from noise to data."""

from zoo.samplers import ancestral, euler, heun, spacings  # noqa: F401
