"""Read a published checkpoint into a run folder, write a run's weights under the published names, or one of a run's
averages as a run of its own (EDM2's post-hoc average among them)."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from vidiff.building import plan
from vidiff.cli import execute, named, parser
from vidiff.config import Config, load
from vidiff.config.reading import parse_override
from vidiff.engine.checkpoint import Snapshot, sha256
from vidiff.engine.checkpoint import load as load_checkpoint
from vidiff.engine.convert import (
    check_width,
    configuration,
    family_of,
    first_checkpoint,
    lying_aside,
    make_converter,
    network_in,
    read_state,
    reading,
    snapshot,
    to_official,
)
from vidiff.engine.parallel import pick_device
from vidiff.engine.profile import human
from vidiff.engine.run import RunFolder, command_line
from vidiff.engine.runs import find_checkpoint
from vidiff.engine.weights import GRAMMAR, parse_weights, read_weights
from vidiff.errors import Refused, Stopped
from vidiff.registry import CONVERTERS, Component


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "convert",
        __doc__ + "\n\nfamilies: " + ", ".join(CONVERTERS.names()),
        [
            "DiT-XL-2-256x256.pt --family dit --out runs/dit_xl",
            "nano.safetensors num_heads=4 sizes=[8,8,8] data.name=moving_mnist --out runs/nano",
            "runs/dit_xl --to-official back.safetensors",
            "runs/edm2 --weights posthoc:0.1 --out runs/edm2_010",
        ],
    )
    made.add_argument("source", metavar="FILE|RUN", help="a checkpoint (.safetensors, .pt), a folder of them, or a run")
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="what weights do not tell (num_heads=4), or the configuration"
    )
    made.add_argument("--family", metavar="NAME", help="whose checkpoint it is (told by its keys where they tell)")
    made.add_argument("--out", type=named, metavar="DIR", help="the run folder to write (runs/<the file's name>)")
    made.add_argument("--to-official", metavar="FILE.safetensors", help="write a run's weights under official names")
    made.add_argument("--weights", metavar="W", help=f"which weights of a run to write: {GRAMMAR} (ema)")
    made.add_argument("--overwrite", action="store_true", help="replace what is there")
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """There, back, or from run to run."""
    if arguments.weights:
        parse_weights(arguments.weights)
    if arguments.to_official:
        write_back(arguments)
    elif arguments.weights:
        write_average(arguments)
    else:
        read_in(arguments)


def read_in(arguments: argparse.Namespace) -> None:
    """A published checkpoint -> a run folder."""
    source = Path(arguments.source)
    if (source / "config.yaml").is_file():
        raise Refused(f"{source} is a run: write its weights with --to-official FILE.safetensors, or one of its "
                      "averages as a run of its own with --weights W --out DIR.")  # fmt: skip
    whole, group = read_state(source)
    state, inside = network_in(whole)
    component = family_of(state, arguments.family)
    told, overrides = _divide(arguments.overrides, component)
    out = Path(arguments.out or f"runs/{source.stem}")
    refuse_existing(out, arguments.overwrite)
    converter = make_converter(component, told)
    with reading(str(source), component.name):
        described, parts = converter.describe(state), converter.from_official(state)
        config = configuration(described, _word(out.name), overrides)
    made = plan(config)
    check_width(made, described, str(source))
    origin = {"family": component.name, "settings": told, "file": source.name, "group": group, "inside": inside}
    origin |= {"sha256": sha256(source)} if source.is_file() else {}
    taken = snapshot(made, parts, str(source), origin)
    write_run(arguments, out, config, taken)
    if not arguments.quiet:
        number = sum(t.numel() for t in taken.tensors["model"].values())
        part = f", its '{'.'.join(filter(None, (group, inside)))}' weights" if group or inside else ""
        left = len(whole) - len(state)
        part += f" ({left} tensors beside them left out)" if left else ""
        classes = f", {described.num_classes} classes" if described.num_classes else ""
        print(f"{component.name}{part}: {human(number)} parameters, latent {made.grid}{classes}: {out}")
        print(f"  sample: python tools/sample.py {out}{'' if made.dataset.shape[0] in (1, 3) else ' --format npy'}")
        print(f"  train:  python tools/train.py {out}/config.yaml --resume {out}/checkpoints/step_00000000 --out DIR")


def write_back(arguments: argparse.Namespace) -> None:
    """A run folder -> a file under official names."""
    target = Path(arguments.to_official)
    if target.suffix != ".safetensors" or (target.exists() and not arguments.overwrite):
        raise Refused(f"--to-official {target}: name a .safetensors file that does not exist yet, or add --overwrite.")
    folder, checkpoint = find_checkpoint(Path(arguments.source))
    made = plan(load(folder / "config.yaml"), training=False)
    kept, state = read_weights(checkpoint, arguments.weights or "ema"), load_checkpoint(checkpoint, ()).state
    family = arguments.family or state.get("converted", {}).get("family")
    if family is None:
        raise Refused(
            f"{folder} was not converted: say whose names to write with --family {'|'.join(CONVERTERS.names())}."
        )
    told, rest = _divide(arguments.overrides, CONVERTERS[family])
    if rest:
        raise Refused(f"'{rest[0]}' changes nothing: a run's configuration stands in its folder.")
    told = {**state.get("converted", {}).get("settings", {}), **told}
    official = to_official(made, kept.tensors, CONVERTERS[family], told, lying_aside(checkpoint))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        save_file({key: value.contiguous() for key, value in official.items()}, str(partial))
        partial.replace(target)
    except (OSError, SafetensorError) as error:
        raise Stopped(f"{target} cannot be written: {getattr(error, 'strerror', None) or error}.") from None
    finally:
        partial.unlink(missing_ok=True)
    if not arguments.quiet:
        print(f"{len(official)} tensors of {checkpoint} ({kept.label}) as {family}: {target}")


def write_average(arguments: argparse.Namespace) -> None:
    """One of a run's averages -> a run of its own, of the same configuration at step 0."""
    if not arguments.out or arguments.overrides:
        raise Refused("--weights of a run: name the new run with --out, and change nothing of the configuration.")
    refuse_existing(Path(arguments.out), arguments.overwrite)
    source, checkpoint = find_checkpoint(Path(arguments.source))
    config = load(source / "config.yaml")
    found = read_weights(checkpoint, arguments.weights)
    state = load_checkpoint(checkpoint, ()).state
    told = {"from": str(checkpoint), "weights": found.label, "profile_error": found.error}
    taken = first_checkpoint(config, found.tensors, {**state.get("converted", {}), **told})
    folder = write_run(arguments, Path(arguments.out), config, taken)
    if not arguments.quiet:
        error = f", its profile met to {found.error:.2%}" if found.error else ""
        print(f"{found.label} of {checkpoint}{error}: {folder}")


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Raises Refused when there is a run already and nobody said to replace it."""
    if (out / "config.yaml").exists() and not overwrite:
        raise Refused(f"{out} is a run already; add --overwrite, or choose another folder with --out.")


def write_run(arguments: argparse.Namespace, out: Path, config: Config, taken: Snapshot) -> Path:
    """A run folder with this first checkpoint."""
    folder = RunFolder(out)
    folder.open(config, overwrite=arguments.overwrite)
    try:
        folder.record_start(command_line(), pick_device("cpu"))
        folder.checkpoints(config).save(0, taken)
        folder.status("converted", 0)
    finally:
        folder.close()
    return out


def _divide(arguments: Sequence[str], component: Component) -> tuple[dict[str, Any], list[str]]:
    """(what the converter is told, overrides of the configuration)."""
    told, overrides = {}, []
    for argument in arguments:
        key, value = parse_override(argument)
        if key in component.settings:
            told[key] = value
        else:
            overrides.append(argument)
    return told, overrides


def _word(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name) or "converted"
