"""Video to latents and back."""

from zoo.tokenizers import dct3d, frame_patch, haar3d, pixels, tubelet  # noqa: F401
