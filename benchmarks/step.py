"""One step of our transformers beside other writings of the same network, in one process, one after the other.

    python benchmarks/step.py [--size tiny|small|S] [--dtype fp32|bf16] [--runs 5] [--device cpu] [--official FILE]

ours       dit_factorized and dit_joint, wired as the builder does, attention=auto
textbook   benchmarks/textbook.py, written from the papers
diffusers  LatteTransformer3DModel (factorized, without text); left out when diffusers is not installed
official   Latte of its authors, from models/latte.py of a clone of their repository, when --official names that file

Every round measures every network once, so that a busy machine is busy for all. A ratio is the median of the
rounds' own ratios, with the least and the largest behind it. Peak memory: of one training step, in a fresh process
on a CPU, by torch's counter on a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from textbook import Textbook  # noqa: E402

import zoo  # noqa: E402, F401
from vidiff.engine.allocator import keep_freed_memory  # noqa: E402
from vidiff.lazy import prepare_torchvision  # noqa: E402
from vidiff.registry import build  # noqa: E402
from vidiff.types import Cond, CondSpec, Grid  # noqa: E402

SIZES = {  # dim, depth, heads, frames, side of the latent, patch, batch
    "tiny": (96, 4, 3, 4, 16, 2, 2),
    "small": (192, 6, 3, 8, 16, 2, 2),
    "S": (384, 12, 6, 16, 32, 2, 1),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
CHANNELS = 4


class Case(NamedTuple):
    """What all networks of a table share; `activation` is ours, the others' is GELU in its tanh form."""

    size: str
    activation: str
    device: torch.device
    dtype: torch.dtype
    official: str | None = None


class Ours(nn.Module):
    """A backbone of the zoo with its patches, taking and giving latents."""

    def __init__(self, name: str, size: str, activation: str, modulation: str = "zero"):
        super().__init__()
        dim, depth, heads, frames, side, patch, _ = SIZES[size]
        self.tokenizer = build("tokenizer", {"name": "frame_patch", "size": patch})
        grid = Grid(*self.tokenizer.latent_shape((CHANNELS, frames, side, side)))
        self.net = build(
            "backbone", {"name": name, "dim": dim, "depth": depth, "num_heads": heads, "activation": activation,
                         "modulation": modulation},
            grid=grid, out_channels=grid.c, cond=CondSpec(), attention=build("attention", "auto"),
            positions=partial(build, "positions", "sincos"),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B,C,F,H,W), t steps (B,) -> (B,C,F,H,W)."""
        return self.tokenizer.decode(self.net(self.tokenizer.encode(x), t / 1000, Cond()))


class Diffusers(nn.Module):
    """LatteTransformer3DModel without text."""

    def __init__(self, size: str):
        super().__init__()
        prepare_torchvision()
        from diffusers import LatteTransformer3DModel

        dim, depth, heads, frames, side, patch, _ = SIZES[size]
        self.dim = dim
        self.net = LatteTransformer3DModel(
            num_attention_heads=heads, attention_head_dim=dim // heads, in_channels=CHANNELS, out_channels=CHANNELS,
            num_layers=depth // 2, sample_size=side, patch_size=patch, video_length=frames,
            activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
            norm_elementwise_affine=False, norm_eps=1e-6, attention_bias=True, caption_channels=dim,
            cross_attention_dim=None,
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B,C,F,H,W), t steps (B,) -> (B,C,F,H,W)."""
        nothing = torch.zeros(len(x), 1, self.dim, device=x.device, dtype=x.dtype)  # asked for, and read by no block
        return self.net(x, timestep=t, encoder_hidden_states=nothing, enable_temporal_attentions=True).sample


class Official(nn.Module):
    """Latte as its authors wrote it, read from models/latte.py of a clone of their repository."""

    def __init__(self, file: str, size: str):
        super().__init__()
        prepare_torchvision()
        spec = importlib.util.spec_from_file_location("official_latte", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        dim, depth, heads, frames, side, patch, _ = SIZES[size]
        self.net = module.Latte(
            input_size=side, patch_size=patch, in_channels=CHANNELS, hidden_size=dim, depth=depth, num_heads=heads,
            num_frames=frames, learn_sigma=False,
        )  # fmt: skip
        # its sinusoids are float32 whatever the network is
        self.net.t_embedder.mlp.register_forward_pre_hook(lambda mlp, given: (given[0].to(mlp[0].weight.dtype),))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x (B,C,F,H,W), t steps (B,) -> (B,C,F,H,W)."""
        return self.net(x.transpose(1, 2), t).transpose(1, 2)


def networks(case: Case) -> dict[str, Callable[[], nn.Module]]:
    """name -> maker, in the order of the table."""
    size, activation = case.size, case.activation
    dim, depth, heads, _, _, patch, _ = SIZES[size]
    write = partial(Textbook, CHANNELS, CHANNELS, patch, dim, depth, heads)
    made: dict[str, Callable[[], nn.Module]] = {
        "dit_factorized": partial(Ours, "dit_factorized", size, activation),
        "dit_factorized single": partial(Ours, "dit_factorized", size, activation, "single"),
        "textbook factorized": partial(write, factorized=True),
        "dit_joint": partial(Ours, "dit_joint", size, activation),
        "textbook joint": partial(write, factorized=False),
    }
    if importlib.util.find_spec("diffusers"):
        made["diffusers Latte"] = partial(Diffusers, size)
    if case.official:
        made["official Latte"] = partial(Official, case.official, size)
    return made


RIVALS = {
    "dit_factorized": ("official Latte", "textbook factorized", "diffusers Latte"),
    "dit_factorized single": ("diffusers Latte",),
    "dit_joint": ("textbook joint",),
}
"""diffusers' Latte has adaLN-single, as `dit_factorized single`; the others adaLN-Zero."""


def inputs(case: Case) -> tuple[Tensor, Tensor]:
    """A batch of latents and its times."""
    _, _, _, frames, side, _, batch = SIZES[case.size]
    x = torch.randn(batch, CHANNELS, frames, side, side, generator=torch.Generator().manual_seed(0))
    return x.to(case.device, case.dtype), torch.full((batch,), 500.0, device=case.device)


def forward(net: nn.Module, x: Tensor, t: Tensor) -> None:
    """Without gradients."""
    with torch.no_grad():
        net(x, t)


def training(net: nn.Module, x: Tensor, t: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Forward, backward, AdamW."""
    optimizer.zero_grad()
    net(x, t).float().square().mean().backward()
    optimizer.step()


def clock(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def prepared(name: str, case: Case) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network in its precision and the optimizer that all share."""
    torch.manual_seed(0)
    net = networks(case)[name]().to(case.device, case.dtype).train()
    used = [p for p in net.parameters() if p.requires_grad]
    return net, torch.optim.AdamW(used, lr=1e-4, fused=True)


def peak_mib(name: str, case: Case) -> float:
    """Peak memory of two training steps, above what the process held before."""
    device = case.device
    if device.type == "cpu" and not sys.platform.startswith("linux"):
        return float("nan")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        net, optimizer = prepared(name, case)
        for _ in range(2):
            training(net, *inputs(case), optimizer)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_here, (name, case, torch.get_num_threads()))


def _peak_here(name: str, case: Case, threads: int) -> float:
    torch.set_num_threads(threads)
    keep_freed_memory()
    net, optimizer = prepared(name, case)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of starting up
    before = _resident("VmRSS")
    for _ in range(2):
        training(net, *inputs(case), optimizer)
    return _resident("VmHWM") - before


def _resident(key: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def measure(case: Case, runs: int, memory: bool, only: str = "") -> dict[str, dict[str, Any]]:
    """name -> parameters, forward_s and training_s of every round, peak_mib."""
    batch, found, times = inputs(case), {}, {}
    words = only.lower().split(",")
    names = [name for name in networks(case) if any(word in name.lower() for word in words)]
    nets = {name: prepared(name, case) for name in names}
    for round_ in range(runs + 1):
        for name, (net, optimizer) in nets.items():
            pair = (
                clock(partial(forward, net, *batch), case.device),
                clock(partial(training, net, *batch, optimizer), case.device),
            )
            if round_:  # the first warms up
                times.setdefault(name, []).append(pair)
    for name, (net, _) in nets.items():
        found[name] = {
            "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
            "forward_s": [f for f, _ in times[name]],
            "training_s": [t for _, t in times[name]],
        }
    del nets
    for name in found:
        found[name]["peak_mib"] = peak_mib(name, case) if memory else float("nan")
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """What was measured, and the ratios other / ours: above 1 ours is faster, or smaller."""
    lines = [f"{'network':<22} {'parameters':>12} {'forward s':>10} {'training s':>11} {'peak MiB':>9}"]
    for name, row in found.items():
        lines.append(
            f"{name:<22} {row['parameters']:>12,} {median(row['forward_s']):>10.4f} {median(row['training_s']):>11.4f} "
            f"{row['peak_mib']:>9.0f}"
        )
    lines.append("")
    for ours, rivals in RIVALS.items():
        for rival in rivals:
            if rival in found and ours in found:
                lines.append(f"{rival} / {ours}: {comparison(found[rival], found[ours])}")
    if not importlib.util.find_spec("diffusers"):
        lines.append('diffusers is not installed, so LatteTransformer3DModel is left out. pip install -e ".[hub]"')
    return "\n".join(lines)


def comparison(rival: dict[str, Any], ours: dict[str, Any]) -> str:
    """Rival / ours, round by round: the median, and in brackets the least and the largest."""
    words = []
    for key, word in (("forward_s", "forward"), ("training_s", "training")):
        ratios = [theirs / own for theirs, own in zip(rival[key], ours[key], strict=True)]
        words.append(f"{word} {median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})")
    return ", ".join([*words, f"memory {rival['peak_mib'] / ours['peak_mib']:.2f}x"])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--activation", choices=("gelu", "gelu_tanh"), default="gelu_tanh",
        help="of our networks: the form the others have (gelu_tanh), or the one that ours have when nothing is said",
    )  # fmt: skip
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="rounds after one that warms up (5)")
    parser.add_argument("--no-memory", action="store_true", help="skip the fresh processes that measure memory")
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="networks with one of these words: factorized,latte"
    )
    parser.add_argument("--plain-malloc", action="store_true", help="leave the allocator as it is, for all networks")
    parser.add_argument("--official", metavar="FILE", help="models/latte.py of a clone of Latte, to measure it as well")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers")
    said = parser.parse_args()
    device = torch.device(said.device)
    kept = device.type == "cpu" and not said.plain_malloc and keep_freed_memory()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    threads = f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    print(
        f"size {said.size} {SIZES[said.size]}, {said.dtype}, ours with {said.activation}, {name}, {threads}"
        + ", freed memory kept" * kept
    )
    case = Case(said.size, said.activation, device, DTYPES[said.dtype], said.official)
    found = measure(case, said.runs, not said.no_memory, said.only)
    print(table(found))
    if said.json:
        Path(said.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
