"""How tokens learn where they are."""

from zoo.positions import learned, none, rotary, rotary_fractional, sincos  # noqa: F401
