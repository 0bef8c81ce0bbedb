"""Callbacks: anything periodic."""

from zoo.callbacks import samples, validation  # noqa: F401
