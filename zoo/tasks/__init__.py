"""Tasks: what is drawn with a trained model, from noise or from videos that are given."""

from zoo.tasks import (  # noqa: F401
    conditioning,
    generate,
    inversion,
    pyramid,
    replacement,
    rollout,
    sdedit,
)
