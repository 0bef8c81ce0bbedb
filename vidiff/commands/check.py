"""Run the contract checks on a component of your own, and say in words what is wrong."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vidiff.checks import CHECKS, examine
from vidiff.cli import execute, parser
from vidiff.config.checking import refuses
from vidiff.config.importing import import_components
from vidiff.config.reading import parse_override
from vidiff.config.schema import SECTIONS
from vidiff.errors import Refused, Stopped
from vidiff.registry import CONVERTERS, KINDS, Component, Setting, did_you_mean


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    made = parser(
        "check",
        __doc__,
        [
            "projects/example_idea/components.py:ConvNeXt3D",
            "mine.py:my_sampler steps=7",
            "backbone:dit_joint",
            "--list",
        ],
    )
    made.add_argument("component", metavar="FILE.py[:Name]|kind:name", nargs="?", help="a file, one of its classes or "
                      "names")  # fmt: skip
    made.add_argument("settings", nargs="*", metavar="key=value", help="settings over those of `tiny`")
    made.add_argument("--list", action="store_true", help="which kinds there are, and what is checked of each")
    return execute(made, run, argv)


def run(arguments: argparse.Namespace) -> None:
    """Check and print. Raises Stopped when a check is broken."""
    if arguments.list:
        list_checks(arguments.component)
        return
    if arguments.component is None:
        raise Refused("name what to check: FILE.py, FILE.py:Name or kind:name. --list shows what is checked.")
    broken = total = 0
    for component in found(arguments.component):
        component = with_settings(component, arguments.settings)
        print(f"{component.kind} {component.name}: {component.summary}")
        if component.kind not in CHECKS:
            print(f"  there are no checks of kind {component.kind}; there are of {', '.join(CHECKS)}")
            continue
        for finding in examine(component):
            total += finding.outcome != "beside"
            broken += finding.outcome == "broken"
            word = {"kept": "ok  ", "broken": "FAIL", "beside": "-   "}[finding.outcome]
            if not (arguments.quiet and finding.outcome != "broken"):
                print(f"  {word} {finding.check}{': ' + finding.words if finding.words else ''}")
    if broken:
        raise Stopped(f"{broken} of {total} checks fail.")


def list_checks(kind: str | None) -> None:
    """A line for every kind and every one of its checks. Raises Refused for a kind without any."""
    if kind is not None and kind not in CHECKS:
        raise Refused(f"there are no checks of '{kind}'.{did_you_mean(kind, CHECKS)} There are of {', '.join(CHECKS)}.")
    for name in [kind] if kind else CHECKS:
        print(name)
        for check in CHECKS[name]:
            print(f"  {check.__name__}: {' '.join((inspect.getdoc(check) or '').split())}")


def found(text: str) -> list[Component]:
    """The components that FILE.py:Name or kind:name means. Raises Refused."""
    file, _, name = text.rpartition(":") if ".py:" in text or text.partition(":")[0] in KINDS else (text, "", "")
    if file in KINDS:
        return [KINDS[file][name]]
    if file.partition(":")[0].removesuffix("s") in SECTIONS:
        raise Refused(f"{file.partition(':')[0]} is a section of a configuration, not a kind of component: nothing of "
                      f"one's own stands there. There are checks of {', '.join(CHECKS)}.")  # fmt: skip
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise Refused(f"{file} is neither a Python file nor one of the kinds {', '.join(KINDS)}.")
    import_components(path)
    registries = [*KINDS.values(), CONVERTERS]
    inside = [c for registry in registries for c in registry if c.file.resolve() == path.resolve()]
    if not inside:
        raise Refused(f'{file} registers nothing: write @BACKBONES.register("my_name") above the class.')
    names = [word for c in inside for word in (c.name, getattr(c.target, "__name__", c.name))]
    chosen = [c for c in inside if name in ("", c.name, getattr(c.target, "__name__", c.name))]
    if not chosen:
        raise Refused(
            f"{file} registers no '{name}'.{did_you_mean(name, names)} It has {', '.join(dict.fromkeys(names))}."
        )
    return chosen


def with_settings(component: Component, overrides: Sequence[str]) -> Component:
    """The component with other tiny settings. Raises Refused for what it does not have."""
    tiny = dict(component.tiny)
    for argument in overrides:
        key, value = parse_override(argument)
        if key not in component.settings:
            raise Refused(f"{component.name} has no setting '{key}'.{did_you_mean(key, component.settings)}")
        refusal = None if component.settings[key].part else refuses(component.settings[key].annotation, value)
        if refusal:
            raise Refused(f"{key} is {value!r}: it must be {refusal}.")
        tiny[key] = value
    missing = [s.name for s in component.settings.values() if s.default is Setting.required and s.name not in tiny]
    if missing:
        raise Refused(f"{component.name} cannot be built: name {' and '.join(missing)} in tiny=dict(...) where it is "
                      f"registered, or here: {missing[0]}=...")  # fmt: skip
    return replace(component, tiny=tiny)
