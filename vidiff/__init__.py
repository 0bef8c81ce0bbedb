"""vidiff: a plugin-based research toolkit for video diffusion transformers."""

__version__ = "0.1.0"
