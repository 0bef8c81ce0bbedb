"""The networks that denoise a latent grid."""

from zoo.backbones import dit_cross, dit_expert, dit_factorized, dit_joint, mmdit, unet3d, unet3d_basic, uvit  # noqa: F401
