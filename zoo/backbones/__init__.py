"""The networks that denoise a latent grid."""

from zoo.backbones import (  # noqa: F401
    dit_cross,
    dit_expert,
    dit_factorized,
    dit_joint,
    mmdit,
    oracle_mixture,
    unet3d,
    unet3d_basic,
    uvit,
)
