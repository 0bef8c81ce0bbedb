"""Every named component. Importing this package fills the registries of `vidiff.registry`."""

from zoo import (  # noqa: F401
    attention,
    backbones,
    caches,
    callbacks,
    conditioners,
    converters,
    datasets,
    encoders,
    guidance,
    metrics,
    objectives,
    positions,
    samplers,
    tasks,
    tokenizers,
)
