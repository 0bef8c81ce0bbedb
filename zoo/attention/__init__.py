"""Implementations of scaled dot-product attention."""

from zoo.attention import auto, flex, math, matmul, sdpa, window, xformers  # noqa: F401
