"""Bits per dimension of held-out clips under the probability-flow ODE of a run."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.building import Plan, build_diffuser, plan
from vidiff.cli import add_run_flags, execute, parser
from vidiff.config import load
from vidiff.diffuser import Diffuser
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.likelihood import FIRST, carried, log_normal
from vidiff.engine.data import collate, to_device
from vidiff.engine.parallel import pick_device
from vidiff.engine.runs import find_checkpoint, load_weights, read_run
from vidiff.engine.sample import held_out_clips
from vidiff.engine.weights import GRAMMAR, parse_weights
from vidiff.errors import Refused
from vidiff.precision import widen_convolutions
from vidiff.random import Random

NEAR = 0.8
"""Where the ODE of a good model ends, x_T has the deviation of the prior to about this factor."""

PROTOCOL = (
    "held-out clips 0 to {last}, each with its own conditions and without guidance; {values}; probability-flow ODE "
    "from t = {low:g} to {high:g} by Dormand-Prince, rtol {rtol:g}, atol {rtol:g}, in float32; {divergence}; "
    "prior N(0, alpha^2 + sigma^2); {weights} weights"
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "likelihood",
        __doc__,
        ["runs/nano_sora_cpu", "runs/nano_sora_cpu --num 32 --probes 4 --rtol 1e-4 --out likelihood.json"],
    )
    made.add_argument("run", metavar="RUN|CKPT", help="a run folder, or one of its checkpoints/step_* folders")
    add_run_flags(made, seed="seed of the dequantization and the probes (0)")
    made.add_argument("--num", type=int, default=8, metavar="N", help="how many held-out clips (8)")
    made.add_argument("--batch-size", type=int, default=4, metavar="N", help="clips at once (4)")
    made.add_argument("--probes", type=int, default=1, metavar="K", help="probes of the divergence per clip (1)")
    made.add_argument("--exact", action="store_true", help="the divergence itself: a backward pass per latent element")
    made.add_argument("--rtol", type=float, default=1e-4, metavar="R", help="tolerance of the solver (1e-4)")
    made.add_argument("--start", type=float, metavar="T", help="the time that clips are taken to be at (1e-5, or where "
                      "the objective begins)")  # fmt: skip
    made.add_argument("--weights", default="ema", metavar="W", help=f"{GRAMMAR} (ema)")
    made.add_argument("--overwrite", action="store_true", help="replace the file of an earlier call")
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print, write RUN/eval/likelihood_STEP.json (or --out)."""
    _check_numbers(arguments)
    parse_weights(arguments.weights)
    folder, checkpoint = find_checkpoint(Path(arguments.run))
    file = Path(arguments.out or folder / "eval" / f"likelihood_{checkpoint.name}.json")
    if file.is_dir() or next(p for p in (file.parent, *file.parents) if p.exists()).is_file():
        raise Refused(f"--out {file}: name a file in a folder.")
    if file.exists() and not arguments.overwrite:
        raise Refused(f"{file} is there already; add --overwrite, or choose another with --out.")
    device = pick_device(arguments.device)
    made = plan(load(folder / "config.yaml"), device.type, read_run, training=False)
    if "velocity" not in made.diffuser.objective.tells:
        raise Refused("this objective tells no velocity, so there is no ODE whose likelihood could be had.")
    if not made.diffuser.objective.noise.white:
        raise Refused("the ODE ends in a known law for independent noise only, and this run was trained with another.")
    diffuser = build_diffuser(made.config, made.dataset).to(device).eval()
    widen_convolutions(diffuser, device, "fp32")
    weights = load_weights(diffuser, checkpoint, arguments.weights)
    try:
        record = measure(diffuser, made, arguments, weights.label)
    except ValueError as error:
        raise error if isinstance(error, Refused) else Refused(str(error)) from None
    record |= {"checkpoint": str(checkpoint), "sha256": weights.sha256}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")
    if not arguments.quiet:
        for key, value in record["bits"].items():
            print(f"{value['mean']:.4f} bits per {key} (standard error {value['error']:.4f}, {arguments.num} clips)")
        print(f"  {record['protocol']}\n  {file}")
        if not NEAR <= record["end"] <= 1 / NEAR:
            print(
                f"  no likelihood to compare: the ODE ends at {record['end']:.3g} times the deviation of its prior. "
                f"At t = {record['start']:g} the model errs by more than the noise; begin later with --start."
            )


def measure(diffuser: Diffuser, made: Plan, arguments: argparse.Namespace, weights: str) -> dict[str, Any]:
    """The numbers with their protocol; `weights` are the words for the weights that were read."""
    objective, device, seed = diffuser.objective, diffuser.device, arguments.seed or 0
    low, high = objective.interval
    low = max(low, FIRST)
    if arguments.start is not None:
        if not low <= arguments.start < high:
            raise Refused(f"--start is {arguments.start:g}: it must be at least {low:g} and less than {high:g}.")
        low = arguments.start
    diffuser.requires_grad_(False)
    in_latents, in_pixels, ends = [], [], []
    for start in range(0, arguments.num, arguments.batch_size):
        rows = range(start, min(start + arguments.batch_size, arguments.num))
        batch = to_device(collate(held_out_clips(made, rows, diffuser.reads | {"video"})), device)
        video, whole = batch["video"], batch["video"].dtype == torch.uint8
        if whole:
            level = Random(seed, "dequantization", rows=rows).uniform(video.shape).to(device)
            video = (video.float() + level - 0.5) / 127.5 - 1
        with torch.no_grad():
            z = diffuser.encode(video)
            cond = diffuser.conditions(batch, len(rows))[0]

        def estimate(x: Tensor, t: Tensor, cond: Any = cond) -> Estimate:
            return objective.estimate(diffuser.backbone, x, t, cond)

        probes = None if arguments.exact else Random(seed, "probes", rows=rows, device=device)
        x, gathered, variance = carried(
            estimate, z, objective.path, probes, probes=arguments.probes, first=low, last=high,
            rtol=arguments.rtol, atol=arguments.rtol,
        )  # fmt: skip
        ends.append((x**2 / variance).mean(1))
        bits = -(log_normal(x, variance) + gathered).double() / math.log(2) / z[0].numel()
        in_latents.append(bits)
        scale = scale_of(diffuser.encode, video)
        if scale is not None and whole:
            in_pixels.append(bits - math.log2(scale) + math.log2(127.5))
    divergence = "exact divergence" if arguments.exact else f"divergence by {arguments.probes} probes of random signs"
    dequantized = "pixels dequantized by uniform noise of one of 256 levels"
    kinds = {"latent element": in_latents, "8-bit pixel value": in_pixels}
    return {
        "bits": {kind: _summary(torch.cat(found)) for kind, found in kinds.items() if found},
        "protocol": PROTOCOL.format(
            last=arguments.num - 1, low=low, high=high, rtol=arguments.rtol, divergence=divergence,
            weights=weights, values=dequantized if whole else "numbers of the clips as they are",
        ),
        "start": low,
        "end": torch.cat(ends).mean().sqrt().item(),
        "seed": seed,
    }  # fmt: skip


@torch.no_grad()
def scale_of(encode: Callable[[Tensor], Tensor] | nn.Module, video: Tensor) -> float | None:
    """By how much `encode` stretches every direction, or None when it does not stretch all alike: |det| = scale^D."""
    z, found = encode(video), []
    if z[0].numel() != video[0].numel():
        return None
    for k in range(3):
        shift = 0.01 * torch.randn(video.shape, generator=torch.Generator().manual_seed(k)).to(video)
        shift = shift * (torch.arange(video.shape[-1], device=video.device) % (k + 2) == 0)
        found.append(((encode(video + shift) - z).norm() / shift.norm()).item())
    return found[0] if max(found) - min(found) < 1e-3 * found[0] else None


def _summary(bits: Tensor) -> dict[str, Any]:
    error = bits.std().item() / len(bits) ** 0.5 if len(bits) > 1 else float("nan")
    return {"mean": bits.mean().item(), "error": error, "clips": [round(b, 6) for b in bits.tolist()]}


def _check_numbers(arguments: argparse.Namespace) -> None:
    ranges = {"num": (2, 100_000), "batch_size": (1, 100_000), "probes": (1, 10_000), "rtol": (1e-7, 0.1)}
    for name, (low, high) in (ranges | {"seed": (0, 2**63)}).items():
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            raise Refused(f"--{name.replace('_', '-')} is {value}: it must be between {low:g} and {high:g}.")
