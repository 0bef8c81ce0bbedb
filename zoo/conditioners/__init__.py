"""What the network is told about a sample."""

from zoo.conditioners import (  # noqa: F401
    camera,
    fps,
    frames,
    label,
    motion,
    none,
    several,
    size,
    text_bytes,
    text_clip,
    text_embeddings,
    text_t5,
)
