"""Names: whatever a YAML file can name is registered here, under its kind.

A component is a class (or function) with a name. In its constructor the arguments
before `*` are *settings* (what a YAML file may write), the arguments after `*` are
*wiring* (what the builder passes: the latent grid, the attention, ...).

    @BACKBONES.register("my_net", tiny=dict(dim=12))
    class MyNet(nn.Module):
        def __init__(self, dim: int = 96, *, grid, out_channels): ...

This module uses the standard library only and knows no component.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any


class UnknownName(ValueError):
    """A name that no registered component bears; the message lists the nearest and all known names."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word closest to `word`, or None when nothing is close."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` or an empty string, to append to an error."""
    guess = nearest(word, known)
    return f" Did you mean '{guess}'?" if guess else ""


def one(kind: str) -> str:
    """`a sampler`, `an encoder`."""
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


@dataclass(frozen=True)
class Setting:
    """One argument before `*`: its name, annotation, default (or `Setting.required`) and part kind."""

    name: str
    annotation: Any
    default: Any
    part: str | None = None

    required = inspect.Parameter.empty


@dataclass(frozen=True)
class Component:
    """A registered class or function with what the house knows of it."""

    kind: str
    name: str
    target: Callable[..., Any]
    tiny: Mapping[str, Any] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> Path:
        """The source file the component stands in."""
        return Path(inspect.getsourcefile(self.target) or "?")

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return (inspect.getdoc(self.target) or "").split("\n", 1)[0]

    @property
    def settings(self) -> dict[str, Setting]:
        """The arguments before `*`, in order."""
        hints = _hints(self.target)
        return {
            p.name: Setting(p.name, hints.get(p.name, Any), p.default, self.parts.get(p.name))
            for p in _parameters(self.target)
            if p.kind is p.POSITIONAL_OR_KEYWORD
        }

    @property
    def wiring(self) -> dict[str, bool]:
        """The arguments after `*`: name -> whether it has a default."""
        return {p.name: p.default is not p.empty for p in _parameters(self.target) if p.kind is p.KEYWORD_ONLY}

    def build(self, settings: Mapping[str, Any] | None = None, **wiring: Any) -> Any:
        """Construct the component: parts first, then itself, with the wiring it asks for.

        `settings` are plain values; a part is a name or a mapping with a `name`.
        Raises TypeError for a setting the constructor does not have.
        """
        values = dict(settings or {})
        for name, kind in self.parts.items():
            node = values.get(name, self.settings[name].default)
            if isinstance(node, (str, Mapping)):
                values[name] = build(kind, node, **wiring)
            elif isinstance(node, (list, tuple)):
                values[name] = [build(kind, i, **wiring) if isinstance(i, (str, Mapping)) else i for i in node]
        return self.target(**values, **{k: v for k, v in wiring.items() if k in self.wiring})


class Registry:
    """All components of one kind, by name."""

    def __init__(self, kind: str):
        self.kind = kind
        self._components: dict[str, Component] = {}

    def register(
        self, name: str, *, tiny: Mapping[str, Any] | None = None, parts: Mapping[str, str] | None = None
    ) -> Callable[[Any], Any]:
        """Decorator: enter a class under `name`.

        `tiny` are the settings that contract tests, docs and listings use;
        `parts` says which settings are components themselves: {"path": "path"}.
        Raises ValueError when the name is taken by another file.
        """

        def enter(target: Any) -> Any:
            component = Component(self.kind, name, target, dict(tiny or {}), dict(parts or {}))
            if name in self._components:
                raise ValueError(
                    f"{self.kind} '{name}' is already registered by {self._components[name].file}; choose another name."
                )
            self._components[name] = component
            return target

        return enter

    def names(self, pattern: str = "*") -> list[str]:
        """The registered names, sorted; `pattern` may hold wildcards (`dit_*`)."""
        return sorted(n for n in self._components if fnmatch(n, pattern))

    def __contains__(self, name: object) -> bool:
        return name in self._components

    def __getitem__(self, name: str) -> Component:
        if name not in self._components:
            known = self.names()
            raise UnknownName(
                f"{self.kind} '{name}' is not registered.{did_you_mean(str(name), known)} "
                f"Known: {', '.join(known) or 'none'}. Your own? Name its file under 'imports:'."
            )
        return self._components[name]

    def __iter__(self):
        return (self._components[n] for n in self.names())

    def remove(self, name: str) -> None:
        """Forget a name (for tests that register a component of their own)."""
        del self._components[name]


KINDS: dict[str, Registry] = {
    kind: Registry(kind)
    for kind in (
        "dataset", "tokenizer", "conditioner", "backbone", "attention", "positions",
        "objective", "path", "prediction", "weighting", "times", "noise",
        "sampler", "spacing", "guidance", "cache", "task", "encoder", "metric", "callback",
    )
}  # fmt: skip

DATASETS, TOKENIZERS, CONDITIONERS = KINDS["dataset"], KINDS["tokenizer"], KINDS["conditioner"]
BACKBONES, ATTENTION, POSITIONS = KINDS["backbone"], KINDS["attention"], KINDS["positions"]
OBJECTIVES, PATHS, PREDICTIONS = KINDS["objective"], KINDS["path"], KINDS["prediction"]
WEIGHTINGS, TIMES, NOISES = KINDS["weighting"], KINDS["times"], KINDS["noise"]
SAMPLERS, SPACINGS, GUIDANCE = KINDS["sampler"], KINDS["spacing"], KINDS["guidance"]
CACHES = KINDS["cache"]
TASKS, ENCODERS = KINDS["task"], KINDS["encoder"]
METRICS, CALLBACKS = KINDS["metric"], KINDS["callback"]

CONVERTERS = Registry("converter")
"""Readers and writers of published checkpoints: named on the command line of `convert`, never in a YAML file."""


def build(kind: str, node: str | Mapping[str, Any], **wiring: Any) -> Any:
    """Build the component that `node` names: `"linear"` or `{"name": "vp", "beta_max": 20.0}`."""
    settings = {"name": node} if isinstance(node, str) else dict(node)
    return KINDS[kind][settings.pop("name")].build(settings, **wiring)


def _parameters(target: Any) -> list[inspect.Parameter]:
    return list(inspect.signature(target).parameters.values())


def _hints(target: Any) -> dict[str, Any]:
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
