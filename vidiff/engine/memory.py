"""What drawing videos needs of memory at the least, known before any weight is read."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vidiff.building import Plan, machine_bytes, rehearse
from vidiff.errors import Refused

GIB = 2**30


class Peak(TorchDispatchMode):
    """The most bytes that tensors made within hold at a time; on the meta device nothing is held in truth."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self.now += storage.nbytes()
                weakref.finalize(storage, self.free, storage.nbytes())
        self.most = max(self.most, self.now)
        return made

    def free(self, size: int) -> None:
        """A tensor is gone."""
        self.now -= size


class Fused(TorchFunctionMode):
    """torch's attention answers without its N x N scores, as its kernels do; on the meta device it writes them out."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            q, _, v = args[:3]
            return q.new_empty(*q.shape[:-1], v.shape[-1])
        return function(*args, **(kwargs or {}))


def forward_bytes(plan: Plan) -> int:
    """The most that one call of the network holds for one video in fp32, counted on the meta device."""
    with Fused(), Peak() as peak:
        rehearse(plan.diffuser, plan.grid)
    return peak.most


def device_bytes(device: torch.device) -> int:
    """All the memory of a device."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else machine_bytes()


def check_drawing(plan: Plan, num: int, batch_size: int, device: torch.device) -> None:
    """Raises Refused, with what would fit, where so many videos are sure to be more than the memory holds."""
    pixels, latent = math.prod(plan.shape), 4 * math.prod(plan.grid)
    results, machine, have = 2 * num * pixels, machine_bytes(), device_bytes(device)  # bytes, and once joined
    shape = "x".join(map(str, plan.shape))
    if results > machine:
        raise Refused(
            f"{num:,} videos of {shape} are {results / GIB:,.0f} GiB, the machine has {machine / GIB:,.0f}: "
            f"use --num {machine // (4 * pixels)} or fewer at a time." if 4 * pixels < machine else
            f"a video of {shape} is {2 * pixels / GIB:,.0f} GiB, the machine has {machine / GIB:,.0f}: "
            "use a smaller --shape."
        )  # fmt: skip
    weights = 4 * sum(p.numel() for p in plan.diffuser.parameters())
    half = 1 if plan.config.train.precision == "fp32" else 2
    branches = 2 if plan.guidance.needs_uncond else 1
    each = branches * forward_bytes(plan) // half + 3 * latent + 4 * pixels
    kept = results if device.type == "cpu" else 0
    need = weights + kept + min(num, batch_size) * each
    if need <= have:
        return
    fits = (have - weights - kept) // each
    remedy = f"use --batch-size {fits} or less" if fits > 0 else "use a smaller --shape, or a device with more memory"
    raise Refused(
        f"drawing {min(num, batch_size):,} videos of {shape} at once needs {need / GIB:,.0f} GiB at least, "
        f"{device} has {have / GIB:,.0f}: {remedy}."
    )
