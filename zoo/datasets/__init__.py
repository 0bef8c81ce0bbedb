"""Where clips come from: `[i]` is a function of the seed, the split and the number only."""

from zoo.datasets import gaussian_mixture, moving_digits, moving_mnist, stand_in, video_folder  # noqa: F401
