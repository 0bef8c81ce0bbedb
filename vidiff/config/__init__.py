"""Configuration: bases, overrides, a project's own imports, and checks before anything is built.

    config = load("projects/nano_sora.yaml", ["backbone.depth=4"])
    config.train.steps, config.components["backbone"]["depth"]

All problems of a configuration are reported together, each with its place and the nearest name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vidiff.config.checking import Checker
from vidiff.config.importing import import_components
from vidiff.config.merging import Change, Layers, read_layers
from vidiff.config.schema import EMA, SECTIONS, SLOTS, Checkpoint, Log, Optimizer, Schedule, Train
from vidiff.errors import Refused

__all__ = ["Config", "ConfigError", "load"]


class ConfigError(Refused):
    """Everything that is wrong with a configuration, one problem per line."""

    def __init__(self, problems: Iterable[str]):
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Config:
    """A complete configuration: every default written out, every key checked."""

    name: str
    seed: int
    components: Mapping[str, dict[str, Any]]
    callbacks: Mapping[str, dict[str, Any]]
    train: Train
    optimizer: Optimizer
    schedule: Schedule
    ema: EMA
    checkpoint: Checkpoint
    log: Log
    description: str = ""
    imports: tuple[Path, ...] = ()
    layers: Layers = field(default_factory=Layers, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values in the order of a YAML file; `imports` are left to the caller."""
        head = {"name": self.name, "description": self.description, "seed": self.seed}
        sections = {key: _plain_section(getattr(self, key)) for key in SECTIONS}
        return {**head, **self.components, **sections, "callbacks": dict(self.callbacks)}

    def to_yaml(self, imports: Iterable[str] = ()) -> str:
        """The file that reproduces this configuration, whatever defaults become later."""
        tree = self.to_dict()
        names = list(imports)
        tree = {"imports": names, **tree} if names else tree
        return yaml.dump(tree, Dumper=_Plain, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)

    def where(self, key: str) -> str:
        """'file:line: ' of a dotted key, or '' when it is a default or was typed."""
        place = self.layers.where(key)
        return f"{place}: " if place and not place.startswith("'") else ""


def load(path: str | Path, overrides: Iterable[str | Change] = ()) -> Config:
    """Read, merge, import, check and complete a configuration.

    Raises Refused for a file that cannot be read and ConfigError with every problem of one that can.
    """
    path = Path(path)
    layers = read_layers(path, overrides)
    if not layers.tree:
        raise Refused(f"{path} is empty: a configuration names data, tokenizer and backbone at least.")
    for file in layers.imports:
        import_components(file)
    layers.tree = _resolve(layers.tree, path)
    checker = Checker(layers)
    tree = checker.complete()
    if checker.problems:
        raise ConfigError(checker.problems)
    name = tree.pop("name", path.stem)
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ConfigError([f"name is '{name}': it names a folder, so letters, digits, '.', '_', '+' and '-' only."])
    return Config(
        name=name,
        seed=tree.pop("seed"),
        description=tree.pop("description", ""),
        components={key: tree[key] for key in SLOTS},
        callbacks=tree["callbacks"],
        imports=tuple(layers.imports),
        layers=layers,
        **{key: schema(**_tuples(schema, tree[key])) for key, schema in SECTIONS.items()},
    )


def completed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A tree that was complete once, with today's default of every setting it does not know yet.

    What it says stays, also what nobody asks for any more.
    """
    return _filled(tree, Checker(Layers(dict(tree))).complete())


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """The dotted keys at which two plain trees differ -> (old value, new value)."""
    found: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*old, *new]):
        a, b, dotted = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{dotted}.")
        elif a != b:
            found[dotted] = (a, b)
    return found


def _filled(old: Any, new: Any) -> Any:
    """`old`, and from `new` the keys of mappings that it lacks; components in lists are taken one by one."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return {**new, **{k: _filled(v, new[k]) if k in new else v for k, v in old.items()}}
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [_filled(a, b) for a, b in zip(old, new)]
    return old


def _resolve(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    """Replace `${a.b}` by the value it refers to."""
    try:
        return OmegaConf.to_container(OmegaConf.create(tree), resolve=True)  # type: ignore[return-value]
    except (OmegaConfBaseException, RecursionError) as error:
        key = getattr(error, "full_key", "") or ""
        raise Refused(f"{path}: {key}: {str(error).splitlines()[0]}") from None


def _tuples(schema: type, values: dict[str, Any]) -> dict[str, Any]:
    wants = {f.name for f in dataclasses.fields(schema) if isinstance(f.default, tuple)}
    return {k: tuple(v) if k in wants else v for k, v in values.items()}


def _plain_section(section: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(section).items()}


class _Plain(yaml.SafeDumper):
    """Block style for mappings, flow style for short lists, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
