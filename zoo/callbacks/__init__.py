"""Callbacks: anything periodic."""

from zoo.callbacks import samples, straightness, validation, x0_error  # noqa: F401
