"""Callbacks: anything periodic."""

from zoo.callbacks import samples, validation, x0_error  # noqa: F401
