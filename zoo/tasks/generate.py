"""Videos from noise."""

from __future__ import annotations

from vidiff.diffusion.task import Task
from vidiff.registry import TASKS


@TASKS.register("generate")
class Generate(Task):
    """The sampler from noise to data; nothing is known."""
