"""Read a published checkpoint into a run folder, or write a run's weights under the published names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from vidiff.building import plan
from vidiff.cli import execute, parser
from vidiff.config import load
from vidiff.config.reading import parse_override
from vidiff.engine.checkpoint import load as load_checkpoint
from vidiff.engine.checkpoint import sha256
from vidiff.engine.convert import (
    check_width,
    configuration,
    family_of,
    make_converter,
    read_state,
    reading,
    snapshot,
    to_official,
)
from vidiff.engine.parallel import pick_device
from vidiff.engine.profile import human
from vidiff.engine.run import RunFolder, command_line
from vidiff.engine.runs import find_checkpoint
from vidiff.errors import Refused
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
        ],
    )
    made.add_argument("source", metavar="FILE|RUN", help="a checkpoint (.safetensors, .pt), a folder of them, or a run")
    made.add_argument(
        "overrides", nargs="*", metavar="key=value", help="what weights do not tell (num_heads=4), or the configuration"
    )
    made.add_argument("--family", metavar="NAME", help="whose checkpoint it is (told by its keys where they tell)")
    made.add_argument("--out", metavar="DIR", help="the run folder to write (runs/<the file's name>)")
    made.add_argument("--to-official", metavar="FILE.safetensors", help="write a run's weights under official names")
    made.add_argument("--weights", choices=("ema", "raw"), default="ema", help="which to write back (ema)")
    made.add_argument("--overwrite", action="store_true", help="replace what is there")
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """There or back."""
    write_back(arguments) if arguments.to_official else read_in(arguments)


def read_in(arguments: argparse.Namespace) -> None:
    """A published checkpoint -> a run folder."""
    source = Path(arguments.source)
    state, group = read_state(source)
    component = family_of(state, arguments.family)
    told, overrides = _divide(arguments.overrides, component)
    out = Path(arguments.out or f"runs/{source.stem}")
    if (out / "config.yaml").exists() and not arguments.overwrite:
        raise Refused(f"{out} is a run already; add --overwrite, or choose another folder with --out.")
    converter = make_converter(component, told)
    with reading(str(source), component.name):
        described, parts = converter.describe(state), converter.from_official(state)
    config = configuration(described, _word(out.name), overrides)
    made = plan(config)
    check_width(made, described, str(source))
    origin = {"family": component.name, "settings": told, "file": source.name, "group": group}
    origin |= {"sha256": sha256(source)} if source.is_file() else {}
    taken = snapshot(made, parts, str(source), origin)
    folder = RunFolder(out)
    folder.open(config, overwrite=arguments.overwrite)
    try:
        folder.record_start(command_line(), pick_device("cpu"))
        folder.checkpoints(config).save(0, taken)
        folder.status("converted", 0)
    finally:
        folder.close()
    if not arguments.quiet:
        number = sum(t.numel() for t in taken.tensors["model"].values())
        part = f", its '{group}' weights" if group else ""
        print(f"{component.name}{part}: {human(number)} parameters, latent {made.grid}: {out}")
        print(f"  sample: python tools/sample.py {out}{'' if made.dataset.shape[0] in (1, 3) else ' --format npy'}")
        print(f"  train:  python tools/train.py {out}/config.yaml --resume {out}/checkpoints/step_00000000 --out DIR")


def write_back(arguments: argparse.Namespace) -> None:
    """A run folder -> a file under official names."""
    target = Path(arguments.to_official)
    if target.suffix != ".safetensors" or (target.exists() and not arguments.overwrite):
        raise Refused(f"--to-official {target}: name a .safetensors file that does not exist yet, or add --overwrite.")
    if arguments.overrides:
        raise Refused(f"'{arguments.overrides[0]}' changes nothing: a run's configuration stands in its folder.")
    folder, checkpoint = find_checkpoint(Path(arguments.source))
    made = plan(load(folder / "config.yaml"), training=False)
    kept = load_checkpoint(checkpoint)
    group = "ema" if arguments.weights == "ema" and "ema" in kept.tensors else "model"
    family = arguments.family or kept.state.get("converted", {}).get("family")
    if family is None:
        raise Refused(
            f"{folder} was not converted: say whose names to write with --family {'|'.join(CONVERTERS.names())}."
        )
    official = to_official(made, kept.tensors[group], CONVERTERS[family])
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in official.items()}, str(target))
    if not arguments.quiet:
        print(f"{len(official)} tensors of {checkpoint} ({group}) as {family}: {target}")


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
