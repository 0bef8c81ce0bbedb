"""What networks cost, from their YAML alone: parameters, tokens, multiply-adds and FLOPs, by module and by kind."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from vidiff.building import plan
from vidiff.cli import execute, named, parser
from vidiff.commands.show import say_notes
from vidiff.config import load
from vidiff.engine.parallel import pick_device
from vidiff.engine.profile import Cost, cost, fvcore_macs, human, seconds
from vidiff.errors import Refused

FORMATS = ("csv", "md", "json")
Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "profile_flops",
        __doc__,
        [
            "projects/nano_sora.yaml backbone.depth=4 --by-module 3",
            "projects/nano_sora_cpu.yaml --sweep data.frames=8,16,32 --plot growth.png --out md",
        ],
    )
    made.add_argument("items", nargs="+", metavar="CONFIG|key=value", help="YAML files, and changes to all of them")
    made.add_argument("--by-module", type=int, metavar="DEPTH", help="a table of modules down to this depth")
    made.add_argument("--by-kind", action="store_true", help="a table of attention, MLP, convolution …")
    made.add_argument(
        "--sweep", action="append", default=[], metavar="key=a,b,c", help="a row for each value (repeat for a grid)"
    )
    made.add_argument("--plot", metavar="FILE.png", help="draw forward FLOPs over the sweep, one curve per CONFIG")
    made.add_argument("--check", action="store_true", help="count again with fvcore, and say whether they agree")
    made.add_argument("--time", action="store_true", help="measure one clip on the device, at the run's precision")
    made.add_argument("--device", default="auto", metavar="NAME", help="where --time measures (auto)")
    made.add_argument(
        "--out", type=named, metavar="csv|md|json|FILE", help="the table as text, or into a file of that ending"
    )
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Count and print."""
    if arguments.by_module is not None and arguments.by_module < 1:
        raise Refused(f"--by-module is {arguments.by_module}: it must be at least 1.")
    device = pick_device(arguments.device)
    files, overrides = _divide(arguments.items)
    style, target = _style(arguments.out)
    sweeps = [_sweep(text) for text in arguments.sweep]
    if arguments.plot and (not sweeps or not arguments.plot.endswith(".png") or Path(arguments.plot).exists()):
        raise Refused(f"--plot {arguments.plot}: draw a --sweep, into a .png file that does not exist yet.")
    stems = [Path(file).stem for file in files]
    names = [stem if stems.count(stem) == 1 else file for file, stem in zip(files, stems, strict=True)]
    pairs = zip(files, names, strict=True)
    costs = [entry for file, name in pairs for entry in _count(arguments, device, file, name, overrides, sweeps)]
    rows, tables = [row for row, _ in costs], [_tables(arguments, row["config"], c) for row, c in costs]
    nested = [row for table in tables for row in table]
    text = render(rows, style) + (("\n" + render(nested, style)) if nested else "")
    if style == "json" and nested:
        text = json.dumps({"networks": rows, "parts": nested}, indent=1) + "\n"
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    elif not arguments.quiet:
        print(text, end="")
    if arguments.plot:
        draw(Path(arguments.plot), rows, [key for key, _ in sweeps])


def _count(
    arguments: argparse.Namespace,
    device: torch.device,
    file: str,
    name: str,
    overrides: list[str],
    sweeps: list[tuple[str, list[str]]],
) -> Iterable[tuple[Row, Cost]]:
    for values in itertools.product(*(values for _, values in sweeps)):
        swept = [f"{key}={value}" for (key, _), value in zip(sweeps, values, strict=True)]
        made = plan(load(file, [*overrides, *swept]), alone=True)
        say_notes(made)
        counted = cost(made)
        row: Row = {"config": name, **dict(s.split("=", 1) for s in swept)}
        row |= {
            "backbone": made.config.components["backbone"]["name"],
            "video": "x".join(map(str, made.dataset.shape)),
            "latent": str(made.grid),
            "tokens": counted.tokens,
            "parameters": counted.parameters,
            "forward_macs": int(counted.forward_macs),
            "forward_flops": int(counted.forward_flops),
            "training_flops": int(counted.training_flops),
        }
        if arguments.check:
            again = fvcore_macs(made)
            row["fvcore_macs"] = int(again)
            row["agree"] = "yes" if abs(again - counted.forward_macs) <= 1e-9 * again else "NO"
        if arguments.time:
            forward, training = seconds(made, device)
            row |= {"device": str(device), "forward_s": round(forward, 5), "training_s": round(training, 5)}
            row["training_flops_per_s"] = int(counted.training_flops / training)
        yield row, counted


def _tables(arguments: argparse.Namespace, name: str, counted: Cost) -> list[Row]:
    """Rows of the tables by kind and by module."""
    rows = []
    groups = [("kind", counted.by_kind())] if arguments.by_kind else []
    groups += [("module", counted.by_module(arguments.by_module))] if arguments.by_module else []
    for word, table in groups:
        for part, (parameters, forward, training) in table.items():
            share = f"{forward / max(counted.forward_flops, 1):.1%}"
            rows.append(
                {"config": name, "by": word, "part": part or "(itself)", "parameters": parameters,
                 "forward_macs": int(forward / 2), "forward_flops": int(forward), "training_flops": int(training),
                 "share": share}
            )  # fmt: skip
    return rows


def render(rows: list[Row], style: str) -> str:
    """Rows as csv, md (GitHub's tables), json, or plain columns."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    if style == "json":
        return json.dumps(rows, indent=1) + "\n"
    if style == "csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return buffer.getvalue()
    cells = [[_short(key, row.get(key, "")) for key in keys] for row in rows]
    widths = [max(len(line[i]) for line in [keys, *cells]) for i in range(len(keys))]
    lines = [[key.ljust(w) for key, w in zip(keys, widths)], *([c.rjust(w) for c, w in zip(x, widths)] for x in cells)]
    if style == "md":
        lines.insert(1, ["-" * w for w in widths])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def draw(file: Path, rows: list[Row], keys: Sequence[str]) -> None:
    """Forward FLOPs over the first swept key, both axes logarithmic, one curve per configuration."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise Refused('--plot needs matplotlib, which is not installed. pip install -e ".[plots]"') from None
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        others = "".join(f", {key}={row[key]}" for key in keys[1:])
        curves.setdefault(f"{row['config']} ({row['backbone']}){others}", []).append(
            (row["tokens"], row["forward_flops"])
        )
    for label, points in curves.items():
        axes.loglog(*zip(*sorted(points)), marker="o", label=label)
    axes.set(xlabel=f"tokens of a clip ({keys[0]})", ylabel="FLOPs of a forward pass (a multiply-add is 2)")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    print(f"{file}")


def _divide(items: Sequence[str]) -> tuple[list[str], list[str]]:
    files = [item for item in items if "=" not in item or Path(item).is_file()]
    if not files:
        raise Refused("name at least one YAML file.")
    return list(dict.fromkeys(files)), [item for item in items if item not in files]


def _sweep(text: str) -> tuple[str, list[str]]:
    """`data.frames=8,16` -> ("data.frames", ["8", "16"]); lists keep their commas: `a=[1,2],[3,4]`."""
    key, equals, values = text.partition("=")
    found = [v for v in re.findall(r"\[[^\]]*\]|[^,\[\]]+", values) if v.strip()]
    if not equals or not key or not found:
        raise Refused(f"--sweep {text}: write key=value,value,… as in data.frames=8,16,32.")
    return key, found


def _style(out: str | None) -> tuple[str, Path | None]:
    if out is None or out in FORMATS:
        return out or "text", None
    file = Path(out)
    if file.suffix[1:] not in FORMATS or file.exists():
        raise Refused(f"--out {out}: one of {', '.join(FORMATS)}, or a new file with such an ending.")
    return file.suffix[1:], file


def _short(key: str, value: Any) -> str:
    return human(value) if key in ("parameters",) or key.endswith(("_macs", "_flops", "_per_s")) else str(value)
