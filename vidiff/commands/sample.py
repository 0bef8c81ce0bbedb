"""Draw videos from a run or a checkpoint."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from vidiff.building import Plan, build_dataset, build_diffuser, plan
from vidiff.cli import add_run_flags, execute, parser
from vidiff.config import load
from vidiff.engine.data import first_clips
from vidiff.engine.parallel import pick_device
from vidiff.engine.runs import find_checkpoint, load_weights, read_run
from vidiff.engine.sample import Drawing, conditions_of, draw
from vidiff.engine.weights import GRAMMAR, Weights, parse_weights
from vidiff.errors import Refused
from vidiff.precision import widen_convolutions
from vidiff.registry import did_you_mean
from vidiff.video import tile, write_gif, write_mp4, write_npy, write_png_strip

FORMATS = ("gif", "mp4", "png", "npy")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "sample",
        __doc__,
        [
            "runs/nano_sora_cpu --num 16 --grid --format gif,png",
            "runs/nano_sora_cpu sampler.name=heun sampler.steps=20 --compare --out samples/heun",
        ],
    )
    made.add_argument("run", metavar="RUN|CKPT", help="a run folder, or one of its checkpoints/step_* folders")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="sampler.*, guidance.* (and attention.*)")
    add_run_flags(made, seed="seed of the noise (that of the run)")
    made.add_argument("--num", type=int, default=8, metavar="N", help="how many videos (8)")
    made.add_argument("--steps", type=int, metavar="N", help="the same as sampler.steps=N")
    made.add_argument("--label", type=int, metavar="K", help="the class of all videos (all classes in turn)")
    made.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a text; several take turns")
    made.add_argument("--weights", default="ema", metavar="W", help=f"{GRAMMAR} (ema)")
    made.add_argument("--format", default="gif,png", metavar="LIST", help="of gif, mp4, png (strip of frames), npy")
    made.add_argument("--grid", action="store_true", help="also one video of all of them side by side")
    made.add_argument("--compare", action="store_true", help="also held-out clips above, generated ones below")
    made.add_argument("--batch-size", type=int, default=8, metavar="N", help="videos drawn at once (8)")
    made.add_argument("--fps", type=float, default=8.0, metavar="F", help="frames per second of the files (8)")
    made.add_argument("--scale", type=int, metavar="K", help="enlarge each pixel K times (small videos: to about 128)")
    made.add_argument("--overwrite", action="store_true", help="replace files of an earlier call")
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Load, draw, write."""
    formats = _formats(arguments.format)
    _check_numbers(arguments)
    parse_weights(arguments.weights)
    folder, checkpoint = find_checkpoint(Path(arguments.run))
    made, seed = _plan(folder, arguments)
    _check_pictures(made, formats)
    device = pick_device(arguments.device)
    rows = range(arguments.num)
    conditions = conditions_of(made, rows, arguments.label, arguments.prompt)
    out = _out(arguments, folder, checkpoint, made)
    diffuser = build_diffuser(made.config, made.dataset).to(device).eval()
    widen_convolutions(diffuser, device, made.config.train.precision)
    weights = load_weights(diffuser, checkpoint, arguments.weights)
    trained = made.config.train.precision
    precision = "fp32" if (device.type, trained) == ("cpu", "fp16") else trained
    total = -(-arguments.num // arguments.batch_size) * made.sampler.evaluations
    with tqdm(total=total, unit="eval", desc="sampling", disable=arguments.quiet or None) as bar:
        drawing = draw(
            diffuser, made.grid, made.sampler, made.guidance, seed=seed, rows=rows, conditions=conditions,
            batch_size=arguments.batch_size, precision=precision, watch=lambda _: bar.update() and None,
        )  # fmt: skip
    files = write_all(out, drawing.video, formats, arguments, made)
    record = _record(arguments, made, checkpoint, drawing, seed, weights, files)
    (out / "samples.json").write_text(json.dumps(record, indent=1) + "\n")
    if not arguments.quiet:
        print(f"{arguments.num} videos, {drawing.evaluations} network evaluations each, {drawing.seconds:.1f} s: {out}")
        print("  " + "  ".join(files[-6:]))


def write_all(out: Path, video: Tensor, formats: Sequence[str], arguments: argparse.Namespace, made: Plan) -> list[str]:
    """Write every video in every format, and the grid and the comparison when asked for."""
    scale = arguments.scale or max(1, 128 // video.shape[-1])
    files = []

    def write(name: str, clip: Tensor, kinds: Sequence[str]) -> None:
        for kind in kinds:
            file = out / f"{name}.{kind}"
            writers[kind](file, clip)
            files.append(file.name)

    writers = {
        "gif": lambda f, v: write_gif(f, v, arguments.fps, scale),
        "mp4": lambda f, v: write_mp4(f, v, arguments.fps, scale),
        "png": lambda f, v: write_png_strip(f, v, scale),
        "npy": write_npy,
    }
    for i, clip in enumerate(video):
        write(f"sample_{i:04d}", clip, formats)
    if arguments.grid:
        write("grid", tile(video), [f for f in formats if f != "png"] or ["gif"])
        write_png_strip(out / "grid.png", video, max(1, scale // 2))
        files.append("grid.png")
    if arguments.compare:
        real = real_clips(made, min(len(video), 8))
        write("compare", tile(torch.cat([real, video[: len(real)]]), columns=len(real)), ["gif"])
        write_png_strip(out / "compare.png", torch.cat([real[:3], video[:3]]), max(1, scale // 2))
        files.append("compare.png")
    return files


def real_clips(made: Plan, num: int) -> Tensor:
    """The first clips of the held-out split, uint8 (N,C,T,H,W)."""
    dataset = build_dataset(made.config, "val")
    return torch.stack([torch.as_tensor(clip["video"]) for clip in first_clips(dataset, num)])


def _plan(folder: Path, arguments: argparse.Namespace) -> tuple[Plan, int]:
    foreign = [o for o in arguments.overrides if not o.startswith(("sampler", "guidance", "attention"))]
    if foreign:
        raise Refused(
            f"'{foreign[0]}' would change the trained model; only sampler, guidance and attention may change."
        )
    overrides = list(arguments.overrides)
    overrides += [f"sampler.steps={arguments.steps}"] if arguments.steps is not None else []
    config = load(folder / "config.yaml", overrides)
    seed = config.seed if arguments.seed is None else arguments.seed
    return plan(config, pick_device(arguments.device).type, read_run, training=False), seed


def _out(arguments: argparse.Namespace, folder: Path, checkpoint: Path, made: Plan) -> Path:
    sampler = made.config.components["sampler"]["name"]
    out = Path(arguments.out or folder / "samples" / f"{checkpoint.name}_{sampler}{made.sampler.steps}")
    if (out / "samples.json").exists() and not arguments.overwrite:
        raise Refused(f"{out} holds samples already; add --overwrite, or choose another folder with --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"{out} cannot be made: {error.strerror}; choose another with --out.") from None
    return out


def _formats(text: str) -> list[str]:
    formats = [f.strip() for f in text.split(",") if f.strip()]
    for name in formats:
        if name not in FORMATS:
            raise Refused(f"--format {name}: there is {', '.join(FORMATS)}.{did_you_mean(name, FORMATS)}")
    if not formats:
        raise Refused(f"--format is empty: there is {', '.join(FORMATS)}.")
    return formats


def _check_numbers(arguments: argparse.Namespace) -> None:
    """Raises Refused for a flag out of range, before anything is loaded."""
    ranges = (("num", 1, 100_000), ("batch_size", 1, 100_000), ("scale", 1, 64), ("seed", 0, 2**63), ("fps", 0.1, 1000))
    for name, low, high in ranges:
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            raise Refused(f"--{name.replace('_', '-')} is {value}: it must be between {low:g} and {high:g}.")


def _check_pictures(made: Plan, formats: Sequence[str]) -> None:
    """Raises Refused when latents without an autoencoder are asked for as pictures."""
    channels = made.dataset.shape[0]
    if channels not in (1, 3) and formats != ["npy"]:
        raise Refused(f"this model's videos have {channels} channels, which no picture has; add --format npy.")


def _record(
    arguments: argparse.Namespace,
    made: Plan,
    checkpoint: Path,
    drawing: Drawing,
    seed: int,
    weights: Weights,
    files: Sequence[str],
) -> dict[str, Any]:
    config = made.config
    return {
        "checkpoint": str(checkpoint),
        "weights": arguments.weights,
        "average": weights.label,
        "profile_error": weights.error,
        "sha256": weights.sha256,
        "sampler": config.components["sampler"],
        "guidance": config.components["guidance"],
        "seed": seed,
        "rows": list(range(arguments.num)),
        "conditions": [{k: v for k, v in c.items() if isinstance(v, (int, float, str))} for c in drawing.conditions],
        "seconds": round(drawing.seconds, 3),
        "evaluations": drawing.evaluations,
        "shape": list(drawing.video.shape),
        "files": list(files),
    }
