"""Layers of configuration: bases left to right, then the file, then `key=value` overrides.

Mappings merge key by key, with one exception: naming another component drops the settings of
the one it replaces, so no setting of the old component lingers under the new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vidiff.config.reading import parse_override, read_yaml
from vidiff.errors import Refused


class Change(NamedTuple):
    """A key of a configuration changed by another file, which says where: `place` is 'file:line'."""

    key: str
    value: Any
    place: str


@dataclass
class Layers:
    """The merged tree, where each dotted key came from, and the imports with their folders."""

    tree: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    imports: list[Path] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)
    """Which layer named each component last: files in their order, and all overrides together as one."""
    files: int = 0

    def where(self, key: str) -> str:
        """'file:line' (or the override) of this key, of one inside it, or of the nearest one around it."""
        inside = next((k for k in self.origin if k.startswith(f"{key}.")), key) if key else key
        key = key if key in self.origin else inside
        while key and key not in self.origin:
            key = key.rpartition(".")[0]
        return self.origin.get(key, "")


def read_layers(path: Path, overrides: Iterable[str | Change] = ()) -> Layers:
    """Read a file with its bases and apply the overrides. Raises Refused."""
    layers = Layers()
    _add_file(layers, path, ())
    for argument in overrides:
        _add_override(layers, argument)
    return layers


def merge(old: Any, new: Any) -> Any:
    """`new` over `old`; neither is changed."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if "name" in new and _name(old) not in (None, new["name"]):
            return dict(new)
        return {**old, **{k: merge(old[k], v) if k in old else v for k, v in new.items()}}
    if isinstance(old, Mapping) and isinstance(new, str) and _name(old) is not None:
        return dict(old) if _name(old) == new else {"name": new}
    if isinstance(old, str) and isinstance(new, Mapping):
        return dict(new) if "name" in new and new["name"] != old else {"name": old, **new}
    return new


def _add_file(layers: Layers, path: Path, trail: tuple[Path, ...]) -> None:
    path = Path(path)
    resolved = path.resolve()
    if resolved in trail:
        raise Refused(f"{path}: 'base:' goes round in a circle: {' -> '.join(p.name for p in (*trail, resolved))}.")
    tree, lines = read_yaml(path)
    for base in _strings(tree.pop("base", []), "base", path):
        _add_file(layers, path.parent / base, (*trail, resolved))
    for name in _strings(tree.pop("imports", []), "imports", path):
        layers.imports.append(_import_path(path, name, lines.get("imports", 1)))
    layers.files += 1
    _add(layers, tree, {key: f"{path}:{line}" for key, line in lines.items()}, layers.files)


def _add_override(layers: Layers, argument: str | Change) -> None:
    typed = isinstance(argument, str)
    key, value, place = (*parse_override(argument), f"'{argument}'") if typed else argument
    if key in ("base", "imports"):
        raise Refused(f"{place}: {key} stands in a YAML file, not on the command line.")
    if value == {} and _at(layers.tree, key):
        raise Refused(f"{place} changes nothing: an empty mapping adds nothing to what {key} holds. "
                      f"Write {key}=null to have none of it.")  # fmt: skip
    tree: Any = value
    for word in reversed(key.split(".")):
        tree = {word: tree}
    owner, _, last = key.rpartition(".")
    places = dict.fromkeys((key, f"{key}.name", *_keys(value, key)), place)
    if owner and last == "name":  # another component, to which nothing else written there belongs
        places[owner] = place
    _add(layers, tree, places, layers.files + 1)


def _add(layers: Layers, tree: dict[str, Any], origin: dict[str, str], layer: int) -> None:
    old = layers.tree  # merged key by key: at the top, `name` is the run's and names no component
    layers.tree = {**old, **{k: merge(old[k], v) if k in old else v for k, v in tree.items()}}
    layers.named |= {key: layer for key, node in tree.items() if isinstance(node, str) or _name(node) is not None}
    layers.origin |= origin
    layers.origin = {key: where for key, where in layers.origin.items() if _has(layers.tree, key)}


def _keys(node: Any, key: str) -> Iterator[str]:
    """The dotted keys inside a mapping that stands at `key`."""
    for word, value in node.items() if isinstance(node, Mapping) else ():
        yield f"{key}.{word}"
        yield from _keys(value, f"{key}.{word}")


def _at(tree: Any, key: str) -> Any:
    for word in key.split("."):
        tree = tree.get(word) if isinstance(tree, Mapping) else None
    return tree


def _has(tree: Any, key: str) -> bool:
    for word in key.split("."):
        if isinstance(tree, list):
            return True
        if not isinstance(tree, Mapping) or word not in tree:
            return False
        tree = tree[word]
    return True


def _name(node: Any) -> str | None:
    return node.get("name") if isinstance(node, Mapping) else None


def _strings(value: Any, key: str, path: Path) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise Refused(f"{path}: {key} is a file name or a list of file names.")
    return values


def _import_path(yaml_path: Path, name: str, line: int) -> Path:
    """A project's own component file: beside its YAML or below, so a configuration cannot run foreign code."""
    folder = yaml_path.resolve().parent
    file = (folder / name).resolve()
    if not file.is_relative_to(folder) or file.suffix != ".py":
        raise Refused(f"{yaml_path}:{line}: imports: '{name}' must be a .py file beside this YAML or below it.")
    if not file.is_file():
        raise Refused(f"{yaml_path}:{line}: imports: {name} does not exist beside this YAML.")
    return file
