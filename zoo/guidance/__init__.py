"""Guidance: how the beliefs with and without a condition are combined."""

from zoo.guidance import cfg, none  # noqa: F401
