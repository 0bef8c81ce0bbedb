"""Every key against the real signatures; every problem with its place and the nearest name."""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from vidiff.config.merging import Layers
from vidiff.config.schema import PLAIN, SECTIONS, SLOTS, TOP_LEVEL
from vidiff.registry import BACKBONES, KINDS, Component, Setting, UnknownName, did_you_mean, nearest, one
from vidiff.types import Range, Saved

LARGEST = {float: 3.4e38, int: 2**63}

OF_A_BACKBONE = ("attention", "positions")
"""Slots whose components a backbone asks for, or has something of its own."""

_WORDS = {
    int: "an integer",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    dict: "a mapping",
}


@dataclass
class Checker:
    """Walks a merged tree, completes it with defaults and collects what is wrong."""

    layers: Layers
    problems: list[str] = field(default_factory=list)

    def complete(self) -> dict[str, Any]:
        """The whole configuration with every default filled in; `problems` holds what was refused."""
        tree = self.layers.tree
        for key in tree:
            if key not in TOP_LEVEL:
                self._unknown_top(key)
        done: dict[str, Any] = {key: self.value(key, PLAIN[key], tree[key]) for key in PLAIN if key in tree}
        done.setdefault("seed", 0)
        for key, slot in SLOTS.items():
            if key not in tree and slot.default is None:
                known = ", ".join(KINDS[slot.kind].names())
                self.problem("", f"'{key}' is missing: name {one(slot.kind)}. Known: {known}.")
            else:
                done[key] = self.component(key, slot.kind, tree.get(key, slot.default), slot.default)
        for key in OF_A_BACKBONE:
            self._leave_behind(key, done)
        for key, schema in SECTIONS.items():
            done[key] = self.section(key, schema, tree.get(key))
        done["callbacks"] = self.callbacks(tree.get("callbacks"))
        return done

    def problem(self, key: str, text: str) -> None:
        """Note a problem, with the place its key was written."""
        where = self.layers.where(key)
        typed = where.startswith("'")  # an override: the text names its key already
        self.problems.append(f"{where}: {text}" if where and not typed else text)

    # ---- components ----

    def _leave_behind(self, key: str, done: dict[str, Any]) -> None:
        """Naming another backbone drops what an earlier file chose for the old one and the new one does not ask for."""
        name, named = done.get("backbone", {}).get("name"), self.layers.named
        asked = name not in BACKBONES or key in BACKBONES[name].wiring
        if not asked and named.get(key, 0) < named.get("backbone", 0):
            done[key] = self.component(key, SLOTS[key].kind, SLOTS[key].default)

    def component(self, key: str, kind: str, node: Any, default: str | None = None) -> dict[str, Any]:
        """A component node (`name` or {name:, settings}) -> {name, every setting}."""
        if isinstance(node, str):
            node = {"name": node}
        if not isinstance(node, Mapping):
            self.problem(key, f"{key} is {_show(node)}: write the name of {one(kind)}, or a mapping with 'name'.")
            return {}
        name = node.get("name", default)
        if not isinstance(name, str):
            what = "missing" if name is None else _show(name)
            self.problem(key, f"{key}.name is {what}: name {one(kind)}. Known: {', '.join(KINDS[kind].names())}.")
            return {}
        try:
            component = KINDS[kind][name]
        except UnknownName as error:
            self.problem(f"{key}.name", str(error))
            return {"name": name}
        return {"name": name, **self._settings(key, component, node)}

    def _settings(self, key: str, component: Component, node: Mapping[str, Any]) -> dict[str, Any]:
        settings = component.settings
        for word in node:
            if word != "name" and word not in settings:
                self._unknown_setting(key, word, component)
        done = {}
        for name, setting in settings.items():
            if name in node:
                done[name] = self._setting(f"{key}.{name}", setting, node[name])
            elif setting.default is Setting.required:
                self.problem(key, f"{key}.{name} is required by {component.name} ({short(component.file)}).")
            else:
                done[name] = self._default(f"{key}.{name}", setting)
        return done

    def _setting(self, key: str, setting: Setting, value: Any) -> Any:
        if setting.part is None or (value is None and setting.default is None):
            return self.value(key, setting.annotation, value)
        if isinstance(value, list) and takes_several(setting.annotation):
            return [self.component(f"{key}.{i}", setting.part, item) for i, item in enumerate(value)]
        default = setting.default if isinstance(setting.default, str) else None
        if isinstance(setting.default, Mapping):
            default = setting.default["name"]
            if isinstance(value, Mapping) and value.get("name", default) == default:
                value = {**setting.default, **value}  # what is not said stays as the default has it
        return self.component(key, setting.part, value, default)

    def _default(self, key: str, setting: Setting) -> Any:
        if setting.part and isinstance(setting.default, (str, Mapping)):
            return self.component(key, setting.part, setting.default)
        return plain(setting.default)

    def _unknown_setting(self, key: str, word: str, component: Component) -> None:
        dotted, owner = f"{key}.{word}", f"{component.name} ({short(component.file)})"
        if word in component.wiring:
            self.problem(dotted, f"{dotted} is wiring: the builder passes it to {owner}. Remove it.")
            return
        hint = elsewhere(word) or did_you_mean(word, component.settings)
        listing = "" if hint else f" It has: {', '.join(component.settings) or 'no settings'}."
        self.problem(dotted, f"{dotted} is not a setting of {owner}.{hint}{listing}")

    def callbacks(self, node: Any) -> dict[str, Any]:
        """{registered name: settings}; null switches a base's callback off."""
        if node is None:
            return {}
        if not isinstance(node, Mapping):
            self.problem("callbacks", "callbacks is a mapping of callback names to their settings.")
            return {}
        done = {}
        for name, settings in node.items():
            if settings is None:
                continue
            if not isinstance(settings, Mapping):
                self.problem(f"callbacks.{name}", f"callbacks.{name} is {settings!r}: write a mapping: {{every: 500}}.")
                continue
            done[name] = self.component(f"callbacks.{name}", "callback", {"name": name, **settings})
            done[name].pop("name", None)
        return done

    # ---- sections and values ----

    def section(self, key: str, schema: type, node: Any) -> dict[str, Any]:
        """An engine section -> every field of its dataclass, as plain values."""
        hints = typing.get_type_hints(schema, include_extras=True)
        if node is not None and not isinstance(node, Mapping):
            self.problem(key, f"{key} is {node!r}: it holds {', '.join(hints)}.")
            node = None
        node = node or {}
        for word in node:
            if word not in hints:
                hint = elsewhere(word) or did_you_mean(word, hints) or f" {key} has: {', '.join(hints)}."
                self.problem(f"{key}.{word}", f"{key}.{word} is not a setting.{hint}")
        defaults = {
            f.name: f.default if f.default is not MISSING else f.default_factory()
            for f in fields(schema)  # type: ignore[misc]
        }
        return {
            name: self.value(f"{key}.{name}", hint, node[name]) if name in node else plain(defaults[name])
            for name, hint in hints.items()
        }

    def value(self, key: str, annotation: Any, value: Any) -> Any:
        """The value when it fits its annotation; otherwise a problem is noted."""
        refusal = refuses(annotation, value)
        if refusal:
            self.problem(key, f"{key} is {_show(value)}: it must be {refusal}.")
        elif _endless(value) and key != "seed":
            self.problem(key, f"{key} is {_show(value)}: no number of the machine is as large.")
        return float(value) if not refusal and _is_float(annotation) and isinstance(value, int) else value

    def _unknown_top(self, key: str) -> None:
        where = self.layers.where(key)
        guess = nearest(key, TOP_LEVEL)
        written = where[1:-1].partition("=")[0] if where.startswith("'") else key
        meant = f" Did you mean '{guess}{written[len(key) :]}'?" if guess else f" Known: {', '.join(TOP_LEVEL)}."
        if where.startswith("'"):
            self.problem("", f"{where} changes nothing: there is no key '{key}'.{meant}")
        else:
            self.problem(key, f"there is no key '{key}'.{meant}")


def refuses(annotation: Any, value: Any) -> str | None:
    """What the value should have been, in words, or None when it fits."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any or annotation is inspect.Parameter.empty:
        return None
    if origin is typing.Annotated:
        inside = all(m.refuses(value) is None for m in args[1:]) if refuses(args[0], value) is None else False
        return None if inside else describe(annotation)
    if origin in (typing.Union, types.UnionType):
        return None if any(refuses(a, value) is None for a in args) else describe(annotation)
    if origin is typing.Literal:
        fits = any(value == a and type(value) is type(a) for a in args)
        return None if fits else _one_of([str(a) for a in args], value)
    if origin in (list, tuple, dict) or annotation in (list, tuple, dict):
        return _refuses_collection(origin or annotation, args, annotation, value)
    if annotation is type(None):
        return None if value is None else "null"
    return _refuses_scalar(annotation, value)


def takes_several(annotation: Any) -> bool:
    """Whether a setting that is made of components takes a list of them (or does not say what it takes)."""
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    options = typing.get_args(annotation) if union else (annotation,)
    return any((typing.get_origin(a) or a) in (list, tuple, Sequence, Any, inspect.Parameter.empty) for a in options)


def describe(annotation: Any) -> str:
    """An annotation in the words of an error message: 'an integer', 'a list of 3 integers' …"""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        bounds = [b for m in args[1:] if isinstance(m, Range) for b in _bounds(m)]
        words = [str(m) for m in args[1:] if isinstance(m, Saved)]
        return words[0] if words else f"{describe(args[0])} {' and '.join(bounds)}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is tuple and Ellipsis not in args:
        return f"a list of {len(args)} values ({', '.join(describe(a) for a in args)})"
    if origin in (list, tuple):
        return f"a list ({describe(args[0])} each)" if args else "a list"
    return _WORDS.get(origin or annotation) or getattr(annotation, "__name__", str(annotation))


def elsewhere(word: str) -> str:
    """Where else a key of this name would be understood: ` There is train.batch_size.`"""
    places = [f"{s}.{word}" for s, schema in SECTIONS.items() if word in {f.name for f in fields(schema)}]
    return f" There is {' and '.join(places)}." if places else ""


def plain(value: Any) -> Any:
    """Tuples as lists: what YAML can hold."""
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def short(file: Path) -> str:
    """A path relative to the working folder or the package, whichever is shorter to read."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if file.is_relative_to(root):
            return file.relative_to(root).as_posix()
    return file.name


def _refuses_scalar(annotation: Any, value: Any) -> str | None:
    if annotation is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    elif annotation is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif isinstance(annotation, type):
        fits = isinstance(value, annotation)
    else:
        return None
    return None if fits else describe(annotation)


def _refuses_collection(origin: Any, args: tuple, annotation: Any, value: Any) -> str | None:
    if origin is dict:
        return None if isinstance(value, Mapping) else describe(annotation)
    if not isinstance(value, (list, tuple)):
        return describe(annotation)
    if origin is tuple and args and Ellipsis not in args:
        fits = len(value) == len(args) and all(refuses(a, v) is None for a, v in zip(args, value))
        return None if fits else describe(annotation)
    return None if not args or all(refuses(args[0], v) is None for v in value) else describe(annotation)


def _one_of(known: list[str], value: Any) -> str:
    guess = nearest(value, known) if isinstance(value, str) else None
    return "one of " + ", ".join(known) + (f" (did you mean '{guess}'?)" if guess else "")


def _bounds(bounds: Range) -> list[str]:
    pairs = (("above", bounds.above), ("at least", bounds.min), ("at most", bounds.max))
    return [f"{word} {number:g}" for word, number in pairs if number is not None]


def _endless(value: Any) -> bool:
    """Whether a number, or one in a list, is beyond what float32 and 64 bits of an integer hold."""
    if isinstance(value, (list, tuple)):
        return any(map(_endless, value))
    return abs(value) >= LARGEST[type(value)] if type(value) in LARGEST else False


def _is_float(annotation: Any) -> bool:
    if typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return annotation is float


def _show(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
