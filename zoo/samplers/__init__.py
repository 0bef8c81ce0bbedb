"""Samplers: from noise to data."""

from zoo.samplers import ancestral, euler, heun, jump, spacings  # noqa: F401
