"""Encoders: frozen views of a clean video that a network's hidden states may be aligned with."""

from zoo.encoders import dct, random_conv, timm  # noqa: F401
