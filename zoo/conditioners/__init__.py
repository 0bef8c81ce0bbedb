"""What the network is told about a sample."""

from zoo.conditioners import (  # noqa: F401
    camera,
    fps,
    frames,
    image_clip,
    image_embeddings,
    image_patches,
    label,
    latent_beside,
    motion,
    none,
    one_hot,
    several,
    size,
    text_bytes,
    text_clip,
    text_embeddings,
    text_t5,
    vector_embeddings,
)
