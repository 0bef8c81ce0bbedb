"""What a network costs, from the configuration alone: parameters, tokens, FLOPs, by module and by kind of work.

Counted on the meta device with torch's counter: on CPU tensors it silently counts nothing for
`scaled_dot_product_attention`. A multiply-add is 2 FLOPs, or one MAC.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.building import Plan, build_diffuser, count_parameters
from vidiff.engine.data import collate, first_clips, to_device
from vidiff.engine.parallel import autocast
from vidiff.types import Cond

KINDS = ("attention", "projections", "mlp", "conv", "modulation", "embedding", "other")
"""attention: the N x N scores and what they weigh. projections: queries, keys, values and the way back."""

_BY_WORD = (
    ("modulation", ("adaln", "modulation", "scale_shift", "ada_")),
    ("embedding", ("embed", "time", "head", "conditioner", "text", "patch", "enter", "leave", "positions")),
    ("projections", ("attn", "attention", "qkv", "to_q", "to_kv", "to_out")),
    ("mlp", ("mlp", "ff", "fc1", "fc2", "feed", "widen", "narrow")),
)
"""Kind of a Linear by the words of its place in the network; the first that fits."""


@dataclass(frozen=True)
class Part:
    """One module's own work, that of its children not included."""

    name: str
    type: str
    kind: str
    parameters: int
    forward_flops: float
    training_flops: float


@dataclass(frozen=True)
class Cost:
    """Per clip: trainable parameters, latent cells, FLOPs of the network forward and of forward + backward."""

    parameters: int
    tokens: int
    forward_flops: float
    training_flops: float
    parts: tuple[Part, ...] = ()

    @property
    def forward_macs(self) -> float:
        """Multiply-adds of a forward pass: what the DiT paper calls Gflops."""
        return self.forward_flops / 2

    def by_kind(self) -> dict[str, tuple[int, float, float]]:
        """kind -> (parameters, forward FLOPs, training FLOPs), for the kinds there are."""
        return _summed(self.parts, lambda part: part.kind, KINDS)

    def by_module(self, depth: int) -> dict[str, tuple[int, float, float]]:
        """module down to `depth` -> (parameters, forward FLOPs, training FLOPs), in the order of the network."""
        return _summed(self.parts, lambda part: ".".join(part.name.split(".")[:depth]))


class Network(nn.Module):
    """Conditioner and backbone, as one forward pass of one clip goes through them."""

    def __init__(self, plan: Plan):
        super().__init__()
        self.conditioner, self.backbone = plan.diffuser.conditioner, plan.diffuser.backbone
        self.objective = plan.diffuser.objective

    def forward(self, batch: Mapping[str, Any], drop: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """A batch's entries, drop (B,), x (B,c,t,h,w), time (B,) -> (B,out,t,h,w)."""
        return self.backbone(x, time, self.objective.complete(self.conditioner(batch, drop), time))


def example(plan: Plan, device: torch.device) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    """What `Network` takes for one clip: no data but the shape and the labels of one item."""
    sample = {k: v for k, v in first_clips(plan.dataset)[0].items() if k != "video"}
    x, time = torch.zeros(1, *plan.grid, device=device), torch.full((1,), 0.5, device=device)
    batch = {**to_device(collate([sample]), device), "latent": x}
    drops = torch.tensor(plan.diffuser.conditioner.drop, device="cpu").shape
    return batch, torch.zeros(1, *drops, dtype=torch.bool, device=device), x, time


def cost(plan: Plan) -> Cost:
    """Count on the meta device: no memory, no weights."""
    from torch.utils.flop_counter import FlopCounterMode

    network, inputs = Network(plan), example(plan, torch.device("meta"))
    counter = FlopCounterMode(display=False)
    with counter:
        y = network(*inputs)
        forward = {name: dict(ops) for name, ops in counter.get_flop_counts().items()}
        if y.requires_grad:
            y.sum().backward()
    both = counter.get_flop_counts()
    plan.diffuser.zero_grad()
    parts = tuple(_parts(network, forward, both))
    tokens = math.prod(plan.grid[1:])
    return Cost(count_parameters(plan.diffuser), tokens, _total(forward["Global"]), _total(both["Global"]), parts)


def _parts(network: nn.Module, forward: Mapping[str, Any], both: Mapping[str, Any]) -> Iterable[Part]:
    """Every module's own work. The backward pass of a function outside of leaf modules (attention) has no
    place in the network: those FLOPs are shared out in proportion to the forward ones."""
    root = type(network).__name__
    modules = {f"{root}.{name}".rstrip("."): (name, module) for name, module in network.named_modules()}
    called = [path for path in modules if path in forward]
    own = {path: _words(forward[path]) for path in called}
    for path in called:
        parent = _nearest(path, own)
        for op, flops in _words(forward[path]).items() if parent else ():
            own[parent][op] -= flops
    leaves = {path for path in called if not any(True for _ in modules[path][1].children())}
    backward = {path: _total(both[path]) - _total(forward[path]) for path in leaves}
    homeless = _total(both["Global"]) - _total(forward["Global"]) - sum(backward.values())
    functional = sum(_total(ops) for path, ops in own.items() if path not in leaves)
    for path, (name, module) in modules.items():
        parameters = sum(p.numel() for p in module.parameters(recurse=False) if p.requires_grad)
        ops = {op: flops for op, flops in own.get(path, {}).items() if flops}
        for op, flops in ops.items() or [("", 0.0)]:
            share = backward[path] * flops / _total(ops) if path in leaves and ops else 0.0
            share += homeless * flops / functional if path not in leaves and functional else 0.0
            yield Part(name, type(module).__name__, kind_of(name, op), parameters, flops, flops + share)
            parameters = 0


def _nearest(path: str, known: Mapping[str, Any]) -> str | None:
    """The closest module around this one that was itself called (a list of blocks is not)."""
    while "." in path:
        path = path.rpartition(".")[0]
        if path in known:
            return path
    return None


def kind_of(name: str, op: str) -> str:
    """What kind of work an operator does at a place of the network."""
    if "bmm" in op or "scaled_dot_product" in op:
        return "attention"
    if "conv" in op:
        return "conv"
    words = name.removeprefix("backbone.").split(".")
    return next((kind for kind, hints in _BY_WORD if any(h in w for w in words for h in hints)), "other")


# ---- a second opinion, and the clock ----


def fvcore_macs(plan: Plan) -> float:
    """Multiply-adds of a forward pass as fvcore counts them, with a handle for fused attention, which it lacks.

    What is no product (norms, means) is left out, as torch's counter does. Convolutions cannot be traced on
    the meta device: networks with them are run once, with memory that nobody filled.
    """
    from fvcore.nn import FlopCountAnalysis

    network = Network(plan)
    convolves = any(isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) for m in network.modules())
    device = torch.device("cpu" if convolves else "meta")
    network = copy.deepcopy(network).to_empty(device=device) if convolves else network
    batch, drop, x, time = example(plan, device)
    cond = network.objective.complete(network.conditioner(batch, drop), time)
    given = [f.name for f in fields(Cond) if getattr(cond, f.name) is not None]
    with torch.no_grad():
        total = 0.0
        for module, inputs in (
            (_Unkeyed(network.conditioner, batch), (drop,)),
            (_Flat(network.backbone, given), (x, time, *(getattr(cond, name) for name in given))),
        ):
            analysis = (
                FlopCountAnalysis(module, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            )
            analysis.set_op_handle("aten::scaled_dot_product_attention", _attention_macs)
            analysis.set_op_handle("aten::baddbmm", _product_macs)
            for op in ("layer_norm", "native_layer_norm", "group_norm", "batch_norm", "rms_norm", "mean", "norm"):
                analysis.set_op_handle(f"aten::{op}", lambda inputs, outputs: 0)
            total += analysis.total()
    return total


class _Flat(nn.Module):
    """A backbone whose condition comes as separate tensors: what tracing can follow."""

    def __init__(self, backbone: nn.Module, given: list[str]):
        super().__init__()
        self.backbone, self.given = backbone, given

    def forward(self, x: Tensor, time: Tensor, *cond: Tensor) -> Tensor:
        return self.backbone(x, time, Cond(**dict(zip(self.given, cond, strict=True))))


class _Unkeyed(nn.Module):
    """A conditioner with its batch inside."""

    def __init__(self, conditioner: nn.Module, batch: Mapping[str, Any]):
        super().__init__()
        self.conditioner, self.batch = conditioner, batch

    def forward(self, drop: Tensor) -> tuple[Tensor, ...]:
        cond = self.conditioner(self.batch, drop)
        return tuple(t for t in (getattr(cond, f.name) for f in fields(Cond)) if t is not None) or (drop,)


def _attention_macs(inputs: list[Any], outputs: list[Any]) -> float:
    q, k, v = (value.type().sizes() for value in inputs[:3])
    return math.prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _product_macs(inputs: list[Any], outputs: list[Any]) -> float:
    return math.prod(outputs[0].type().sizes()) * inputs[1].type().sizes()[-1]


def seconds(plan: Plan, device: torch.device, runs: int = 5) -> tuple[float, float]:
    """Median seconds of one clip's forward pass and of forward + backward, at the run's precision."""
    network = Network(plan)
    diffuser = build_diffuser(plan.config, plan.dataset).to(device)
    network.conditioner, network.backbone = diffuser.conditioner, diffuser.backbone
    network.objective = diffuser.objective
    inputs = example(plan, device)

    def clock(backward: bool) -> float:
        began = time.perf_counter()
        with autocast(device, plan.config.train.precision), torch.set_grad_enabled(backward):
            y = network(*inputs)
        if backward:
            y.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    times = [(clock(False), clock(True)) for _ in range(runs + 1)][1:]
    return median(f for f, _ in times), median(b for _, b in times)


# ---- numbers ----


def human(number: float) -> str:
    """1234567 -> '1.23M'."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:g}"


def _words(ops: Mapping[Any, float]) -> dict[str, float]:
    return {str(op): n for op, n in ops.items()}


def _total(ops: Mapping[Any, float]) -> float:
    return sum(ops.values())


def _summed(parts: Iterable[Part], key: Any, order: Iterable[str] = ()) -> dict[str, tuple[int, float, float]]:
    found: dict[str, tuple[int, float, float]] = {}
    for part in parts:
        p, f, t = found.get(key(part), (0, 0.0, 0.0))
        found[key(part)] = (p + part.parameters, f + part.forward_flops, t + part.training_flops)
    found = {k: sums for k, sums in found.items() if any(sums)}
    return {k: found[k] for k in order if k in found} | found
