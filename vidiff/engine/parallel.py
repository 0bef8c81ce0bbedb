"""Processes and devices. The only file that will know of more than one process."""

from __future__ import annotations

import os
import re
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from vidiff.engine.allocator import keep_freed_memory
from vidiff.errors import Refused

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

DEVICE = re.compile(r"(cpu|cuda|mps)(?::([0-9]+))?")


@dataclass(frozen=True)
class World:
    """This process among all of them."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def share(self, total: int, what: str) -> range:
        """The rows of a global batch that are this process's. Raises Refused when they do not divide."""
        if total % self.size:
            raise Refused(f"{what} is {total}: it does not divide over {self.size} processes.")
        part = total // self.size
        return range(self.rank * part, (self.rank + 1) * part)


def world(device: str = "auto") -> World:
    """The world of this process on `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. Raises Refused."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise Refused("this version trains in one process; start it without torchrun.")
    picked = pick_device(device)
    if picked.type == "cpu":
        keep_freed_memory()
    return World(picked)


def pick_device(name: str) -> torch.device:
    """`auto` takes CUDA, then MPS, then the CPU. Raises Refused for a device that is not there.

    The text is read here: torch takes any number for a CPU's, and cuda:256 for cuda:0.
    """
    there = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind, count in there.items() if count))
    read = DEVICE.fullmatch(name)
    if read is None:
        raise Refused(f"device '{name}' is not one of auto, cpu, cuda, cuda:N, mps.")
    kind, number = read.groups()
    if not there[kind]:
        raise Refused(f"device '{name}' is not available here; use cpu or auto.")
    if int(number or 0) >= there[kind]:
        have = ", ".join(f"cuda:{i}" for i in range(there[kind])) if kind == "cuda" else kind
        raise Refused(f"device '{name}' is not available here; there is {have}.")
    return torch.device(kind, int(number)) if kind == "cuda" and number else torch.device(kind)


def autocast(device: torch.device, precision: str):
    """The AMP context of a precision: bf16 everywhere, fp16 on CUDA, nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def check_precision(device: torch.device, precision: str) -> None:
    """Raises Refused for fp16 away from CUDA: without a gradient scaler it underflows."""
    if precision == "fp16" and device.type != "cuda":
        raise Refused(f"train.precision is fp16, which needs a CUDA device (this is {device.type}). Use bf16.")


def peak_memory_gib(device: torch.device) -> float:
    """The most memory this process has held: of the GPU, or of the machine (resident) on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 2**30
