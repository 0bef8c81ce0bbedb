"""Draw videos from a run or a checkpoint."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from vidiff.building import Plan, build_diffuser, machine_bytes, plan, reshaped
from vidiff.cli import add_run_flags, execute, parser
from vidiff.config import load
from vidiff.config.schema import TOP_LEVEL
from vidiff.diffuser import Diffuser
from vidiff.engine.checkpoint import write_atomic
from vidiff.engine.compared import compared
from vidiff.engine.memory import check_drawing
from vidiff.engine.parallel import pick_device
from vidiff.engine.runs import find_checkpoint, load_weights, read_run
from vidiff.engine.sample import Drawing, conditions_of, draw
from vidiff.engine.sample_files import FORMATS, SampleFiles, writing_in
from vidiff.engine.weights import GRAMMAR, Weights, parse_weights
from vidiff.errors import Failed, Refused, Stopped
from vidiff.precision import widen_convolutions
from vidiff.registry import did_you_mean
from vidiff.types import BadSample, shapes_of
from vidiff.video import fit, gray, probe, read_frames

FPS = 8.0
"""Of files, where nobody says otherwise."""

FREE = ("sampler", "guidance", "cache", "task", "attention")
"""What of a configuration a trained model leaves open."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "sample",
        __doc__,
        [
            "runs/nano_sora_cpu --num 16 --grid --format gif,png",
            "runs/nano_sora_cpu sampler.name=heun sampler.steps=20 --compare --out samples/heun",
            "runs/advanced_class guidance.name=apg guidance.scale=5 cache=first_block --out samples/apg",
            "runs/video_prediction task.count=4 --compare",
            "runs/sora_style --shape 8x64x32 --num 4",
            "runs/nano_sora_cpu task.name=sdedit task.strength=0.5 --input clip.mp4 --label 3",
        ],
    )
    made.add_argument("run", metavar="RUN|CKPT", help="a run folder, or one of its checkpoints/step_* folders")
    made.add_argument("overrides", nargs="*", metavar="key=value", help="sampler.*, guidance.*, cache.*, task.*, "
                      "attention.*")  # fmt: skip
    add_run_flags(made, seed="seed of the noise (that of the run)")
    made.add_argument("--num", type=int, default=8, metavar="N", help="how many videos (8)")
    made.add_argument("--steps", type=int, metavar="N", help="the same as sampler.steps=N")
    made.add_argument("--label", type=int, metavar="K", help="the class of all videos (all classes in turn)")
    made.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="a text; several take turns")
    made.add_argument("--negative", metavar="TEXT", help="a text to be guided away from (none: no text)")
    made.add_argument("--input", action="append", default=[], metavar="FILE", help="a video file for a task that takes "
                      "given videos (held-out clips); several take turns")  # fmt: skip
    made.add_argument("--weights", default="ema", metavar="W", help=f"{GRAMMAR} (ema)")
    made.add_argument("--format", default="gif,png", metavar="LIST", help="of gif, mp4, png (strip of frames), npy")
    made.add_argument("--grid", action="store_true", help="also one video of all of them side by side")
    made.add_argument("--compare", action="store_true", help="also given or held-out clips above, generated "
                      "ones below; what was known has an outline")  # fmt: skip
    made.add_argument("--shape", metavar="TxHxW", help="frames, height and width to draw (those of the data)")
    made.add_argument("--batch-size", type=int, default=8, metavar="N", help="videos drawn at once (8)")
    made.add_argument("--fps", type=float, metavar="F", help="frames per second of the files (8), and of the videos "
                      "where the model reads it")  # fmt: skip
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
    check_drawing(made, arguments.num, arguments.batch_size, device)
    rows = range(arguments.num)
    videos = [given_video(file, made.shape) for file in arguments.input]
    conditions = conditions_of(made, rows, arguments.label, arguments.prompt, videos, arguments.negative)
    if arguments.fps is not None and "fps" in made.diffuser.reads:
        conditions = [{**condition, "fps": arguments.fps} for condition in conditions]
    arguments.fps = arguments.fps or FPS
    out = _out(arguments, folder, checkpoint, made)
    with writing_in(out, arguments.overwrite) as earlier:
        diffuser = build_diffuser(made.config, made.dataset).to(device).eval()
        widen_convolutions(diffuser, device, made.config.train.precision)
        weights = load_weights(diffuser, checkpoint, arguments.weights)
        drawing = _drawn(arguments, made, diffuser, seed, conditions)
        for file in earlier:
            file.unlink(missing_ok=True)
        try:
            files = _write(out, drawing, formats, arguments, made)
            record = _record(arguments, made, checkpoint, drawing, seed, weights, files)
            write_atomic(out / "samples.json", json.dumps(record, indent=1) + "\n")
        except OSError as error:
            raise Stopped(f"samples cannot be written to {out}: {error.strerror or error}.") from None
    if not arguments.quiet:
        print(f"{arguments.num} videos, {drawing.evaluations} network evaluations each, {drawing.seconds:.1f} s: {out}")
        if drawing.cache:
            print(f"  cache {made.config.components['cache']['name']}: {saving(drawing.cache)}")
        print("  " + "  ".join(files[-6:]))


def _drawn(
    arguments: argparse.Namespace, made: Plan, diffuser: Diffuser, seed: int, conditions: Sequence[dict[str, Any]]
) -> Drawing:
    """The videos. Raises Failed when one is not finite."""
    trained = made.config.train.precision
    precision = "fp32" if (diffuser.device.type, trained) == ("cpu", "fp16") else trained
    per_video = made.task.evaluations(made.sampler)
    total = None if per_video is None else -(-arguments.num // arguments.batch_size) * per_video
    with tqdm(total=total, unit="eval", desc="sampling", disable=arguments.quiet or None) as bar, one_line():
        drawing = draw(
            diffuser, made.grid, made.sampler, made.guidance, seed=seed, rows=range(arguments.num),
            conditions=conditions, batch_size=arguments.batch_size, precision=precision,
            watch=lambda _: bar.update() and None, task=made.task, cache=made.cache,
        )  # fmt: skip
    if drawing.broken:
        raise Failed(
            f"{len(drawing.broken)} of {arguments.num} samples hold NaN or infinity, so nothing was written: use a "
            "lower guidance.scale, or another sampler, path or spacing, or weights of a run that did not diverge."
        )
    return drawing


@contextmanager
def one_line() -> Iterator[None]:
    """What a sampler or a task refuses on the way is the user's to change, and one line."""
    try:
        yield
    except ValueError as error:
        raise error if isinstance(error, Refused) else Refused(str(error)) from None


def saving(kept: dict[str, Any]) -> str:
    """What a cache saved, and how wrong it was where it was checked, in words."""
    if not kept["reused"]:
        would = f" (it would have been off by {kept['error_mean']:.2g} on average)" if kept["checked"] else ""
        return f"nothing was answered from what was kept, so the videos are those of no cache{would}"
    text = f"{kept['saved']:.0%} of {kept['rows']} evaluations (counted by row) answered from what was kept"
    if not kept["checked"]:
        return f"{text}; its error was never checked"
    return f"{text}; error where checked: {kept['error_mean']:.2g} on average, {kept['error_max']:.2g} at most"


def given_video(file: str, shape: tuple[int, int, int, int]) -> Tensor:
    """The first frames of a video file, cut to the shape (C,T,H,W), uint8. Raises Refused."""
    channels, frames, height, width = shape
    if channels not in (1, 3):
        raise Refused(f"--input {file}: this model's videos have {channels} channels, which no file has.")
    try:
        have = probe(file).num_frames
        if have < frames:
            raise Refused(f"--input {file}: it has {have} frames, and the model draws {frames}.")
        video = read_frames(file, range(frames), each=lambda frame: fit(frame, height, width))
    except BadSample as error:
        raise Refused(f"--input {error}") from None
    return video if channels == 3 else gray(video)


def _write(out: Path, drawing: Drawing, formats: Sequence[str], arguments: argparse.Namespace, made: Plan) -> list[str]:
    """Every video in every format, the grid and the comparison when asked for; the names of the files."""
    video = drawing.video
    files = SampleFiles(out, arguments.fps, arguments.scale or max(1, 128 // video.shape[-1]))
    files.each(video, formats)
    if arguments.grid:
        files.grid(video, formats)
    if arguments.compare:
        files.comparison(*compared(made, drawing, min(len(video), 8)))
    return files.names


def _plan(folder: Path, arguments: argparse.Namespace) -> tuple[Plan, int]:
    for override in arguments.overrides:
        _check_override(override, arguments)
    overrides = list(arguments.overrides)
    overrides += [f"sampler.steps={arguments.steps}"] if arguments.steps is not None else []
    config = load(folder / "config.yaml", overrides)
    seed = config.seed if arguments.seed is None else arguments.seed
    made = plan(config, pick_device(arguments.device).type, read_run, training=False)
    return _shaped(made, arguments), seed


def _check_override(override: str, arguments: argparse.Namespace) -> None:
    """Raises Refused for a key of the trained model and for a flag without its dashes; other words are for `load`."""
    key, _, value = override.partition("=")
    first = key.partition(".")[0]
    if key in vars(arguments).keys() - {"run", "overrides"}:
        shown = "" if isinstance(getattr(arguments, key), bool) else f" {value}"
        raise Refused(f"'{override}' is no setting here: write --{key.replace('_', '-')}{shown}.")
    if first in TOP_LEVEL and first not in FREE:
        raise Refused(
            f"'{override}' would change the trained model; only {', '.join(FREE[:-1])} and {FREE[-1]} may change."
        )


def _shaped(made: Plan, arguments: argparse.Namespace) -> Plan:
    """The plan for videos of --shape. Raises Refused when a part cannot take it, or nothing real can stand above."""
    if arguments.shape is None:
        return made
    sizes = arguments.shape.lower().split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and 1 <= int(size) <= 100_000 for size in sizes):
        raise Refused(f"--shape {arguments.shape}: write frames, height and width, as in --shape 8x64x32.")
    shape = (made.shape[0], *map(int, sizes))
    if math.prod(shape) > machine_bytes():
        raise Refused(f"--shape {arguments.shape}: one such video is {math.prod(shape) / 2**30:,.0f} GiB, "
                      f"the machine has {machine_bytes() / 2**30:,.0f}.")  # fmt: skip
    if arguments.compare and shape not in shapes_of(made.dataset):
        raise Refused(f"--compare: no clip of the data is {arguments.shape}; leave it, or --shape, away.")
    try:
        return reshaped(made, shape)
    except ValueError as error:
        raise Refused(f"--shape {arguments.shape}: {error}") from None


def _out(arguments: argparse.Namespace, folder: Path, checkpoint: Path, made: Plan) -> Path:
    sampler = made.config.components["sampler"]["name"]
    task = made.config.components["task"]["name"]
    stem = f"{checkpoint.name}_{sampler}{made.sampler.steps}" + (f"_{task}" if task != "generate" else "")
    stem += "" if arguments.shape is None else f"_{arguments.shape.lower()}"
    return Path(arguments.out or folder / "samples" / stem)


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
        "negative": arguments.negative,
        "cache": {**config.components["cache"], **drawing.cache},
        "task": {**config.components["task"], **drawing.notes},
        "input": list(arguments.input),
        "seed": seed,
        "rows": list(range(arguments.num)),
        "conditions": [{k: v for k, v in c.items() if isinstance(v, (int, float, str))} for c in drawing.conditions],
        "seconds": round(drawing.seconds, 3),
        "evaluations": drawing.evaluations,
        "shape": list(drawing.video.shape),
        "files": list(files),
    }
