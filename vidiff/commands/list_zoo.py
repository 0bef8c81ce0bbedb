"""Every component that a YAML file can name: names, settings, sources."""

from __future__ import annotations

import argparse
import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vidiff.building import count_parameters
from vidiff.cli import execute, parser
from vidiff.config import load
from vidiff.config.checking import describe, plain, short
from vidiff.config.schema import SLOTS
from vidiff.engine.profile import human
from vidiff.errors import Refused
from vidiff.registry import CONVERTERS, KINDS, Component, Registry, Setting, build, did_you_mean, one
from vidiff.types import CondSpec, Grid

HOUSE = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser("list_zoo", __doc__, ["", "backbone", "backbone dit_joint", "sampler 'e*'", "--markdown docs/zoo.md"])
    made.add_argument("kind", nargs="?", help=f"one of {', '.join(KINDS)}, converter; or 'optimizers'")
    made.add_argument("name", nargs="?", help="a name, or a pattern with * and ?")
    made.add_argument("--markdown", metavar="FILE.md", help="write everything as a page (docs/zoo.md is this page)")
    made.add_argument("--project", metavar="YAML", help="list this project's own components too")
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Print the listing."""
    if arguments.project:
        load(arguments.project)
    if arguments.markdown:
        write_page(Path(arguments.markdown))
        return
    if arguments.kind is None:
        for kind, registry in KINDS.items():
            print(f"{kind:<12} {', '.join(registry.names()) or '-'}")
        return
    if arguments.kind in ("optimizer", "optimizers"):
        names = optimizers(arguments.name or "*")
        print(", ".join(names))
        return
    registry = registry_of(arguments.kind)
    names = registry.names(arguments.name or "*")
    if not names and arguments.name:
        print_component(registry[arguments.name])
    elif not names:
        print(f"no {registry.kind} is registered yet.")
    for name in names:
        print_component(registry[name]) if arguments.name else print(f"{name:<20} {registry[name].summary}")


def registry_of(word: str) -> Registry:
    """What a word means: a kind, its plural (the name of its folder in zoo/) or the key of a YAML file that holds one.

    Raises Refused with the nearest kind.
    """
    known = {**KINDS, "converter": CONVERTERS}
    slots = {key: slot.kind for key, slot in SLOTS.items()}
    for kind in (word, word.removesuffix("s"), slots.get(word)):
        if kind in known:
            return known[kind]
    owners = [f"{kind} {word}" for kind, registry in known.items() if word in registry]
    if owners:
        raise Refused(f"'{word}' is no kind but a component: list_zoo.py {' or '.join(owners)}.")
    kinds = [*known, "optimizers"]
    raise Refused(f"'{word}' is not a kind.{did_you_mean(word, kinds)} There is {', '.join(kinds)}.")


def print_component(component: Component) -> None:
    """A component with its file and every setting."""
    print(f"{component.kind} {component.name}    {short(component.file)}\n  {component.summary}")
    for setting in component.settings.values():
        default = "required" if setting.default is Setting.required else f"= {setting.default!r}"
        kind = one(setting.part) if setting.part else describe(setting.annotation)
        print(f"    {setting.name:<16} {default:<20} {kind}")


HEAD = """# The zoo

Every component that a YAML file can name. Written by `python tools/list_zoo.py --markdown docs/zoo.md`; a test says
when to run it again. `tiny` are the settings of contract tests. Papers are arXiv numbers, from the head of each file.
"""


def write_page(file: Path) -> None:
    """Write everything as a page, over an earlier one. Raises Refused where something else is."""
    if file.exists() and not (file.is_file() and file.read_bytes().startswith(HEAD.partition("\n")[0].encode())):
        raise Refused(f"--markdown {file}: it is there already, and no page of this tool.")
    file.write_text(page(), encoding="utf-8")
    print(file)


def page() -> str:
    """All kinds as Markdown: settings with defaults and ranges, papers, parameters of the networks."""
    parts = [HEAD]
    for kind, registry in [*KINDS.items(), ("converter", CONVERTERS)]:
        own = [component for component in registry if component.file.is_relative_to(HOUSE)]
        parts += [f"\n## {kind}\n"] if own else []
        parts += [section(component) for component in own]
    return "".join(parts)


def section(component: Component) -> str:
    """One component as Markdown."""
    file = component.file.relative_to(HOUSE).as_posix()
    head = f"\n### `{component.name}`\n\n{component.summary}  \n[{file}](../{file})"
    papers = ", ".join(f"[{p}](https://arxiv.org/abs/{p})" for p in _papers(component))
    learns = component.kind == "backbone" and not getattr(component.target, "exact", False)
    sizes = "; " + _sizes(component) if learns else ""
    rows = [_row(setting) for setting in component.settings.values()]
    table = ["\n| setting | default | range |\n|---|---|---|\n", *rows] if rows else ["\nNo settings.\n"]
    return f"{head}{'; ' + papers if papers else ''}{sizes}\n{''.join(table)}"


def _row(setting: Setting) -> str:
    default = "required" if setting.default is Setting.required else f"`{plain(setting.default)!r}`"
    allowed = one(setting.part) if setting.part else describe(setting.annotation)
    return f"| `{setting.name}` | {default} | {allowed.replace('|', ' or ')} |\n"


def _papers(component: Component) -> list[str]:
    """The arXiv numbers in the head of a component's file."""
    head = ast.get_docstring(ast.parse(component.file.read_text(encoding="utf-8"))) or ""
    return list(dict.fromkeys(re.findall(r"\b\d{4}\.\d{5}\b", head)))


def _sizes(component: Component) -> str:
    """Parameters at default settings and at `tiny`, on the latent of Latte without a condition."""
    numbers = []
    for word, settings in (("by default", {}), ("tiny", component.tiny)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a text of width 0 has no weights to initialise, which torch remarks
            numbers.append(f"{human(count_parameters(built(component, settings)))} parameters {word}")
    return ", ".join(numbers)


def built(component: Component, settings: Mapping[str, Any]) -> nn.Module:
    """A backbone on the meta device, for 16 frames of 32x32x4 in patches of 2, unconditional, attention sdpa."""
    with torch.device("meta"):
        return component.build(
            settings, grid=Grid(16, 16, 16, 16), out_channels=16, cond=CondSpec(),
            attention=build("attention", "sdpa"), positions=partial(build, "positions", "sincos"),
        )  # fmt: skip


def optimizers(pattern: str = "*") -> list[str]:
    """The names timm offers for optimizer.name. Raises Refused where none is like the pattern."""
    from vidiff.lazy import prepare_torchvision

    prepare_torchvision()
    from timm.optim import list_optimizers

    names = list_optimizers()
    found = [name for name in names if fnmatch(name, pattern)]
    if not found:
        raise Refused(f"no optimizer is called '{pattern}'.{did_you_mean(pattern, names)}")
    return found
