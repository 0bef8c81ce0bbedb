"""Reading YAML that may be hostile: bounded, without tags, anchors or resolvers, with line numbers.

The text is scanned as a stream of events, which needs no recursion, before OmegaConf sees it:
OmegaConf's loader crashes the interpreter on very deep files and its resolvers read the environment.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vidiff.errors import Refused
from vidiff.registry import did_you_mean

MAX_BYTES, MAX_DEPTH, MAX_NODES, MAX_DIGITS = 1_000_000, 64, 50_000, 100

_YAML_1_1 = (
    (re.compile(r"^[+-]?\d+(:[0-5]?\d)+(\.\d*)?$"), "YAML reads it as a number in base 60; quote it"),
    (re.compile(r"^[+-]?0\d+$"), "YAML reads it as octal; drop the leading zero or quote it"),
    (re.compile(r"^(y|n|yes|no|on|off)$", re.IGNORECASE), "write true or false, or quote it"),
)
_RESOLVER = re.compile(r"\$\{[^${}]*:")
_KEY = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """A YAML file -> (its mapping, line number of every dotted key).

    Raises Refused, naming file and line, for anything but a small, plain, well-formed mapping.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise Refused(f"{path} is not a regular file.")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise Refused(f"{path} does not exist.{_neighbours(path)}") from None
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror or error}.") from None
    if len(raw) > MAX_BYTES:
        raise Refused(f"{path} is larger than {MAX_BYTES:,} bytes: this is not a configuration.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Refused(f"{path} is not UTF-8 text.") from None
    return parse(text, str(path))


def parse(text: str, where: str) -> tuple[dict[str, Any], dict[str, int]]:
    """YAML text -> (mapping, line of every dotted key). `where` names the text in errors."""
    lines = _scan(text, where)
    try:
        tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if text.strip() else {}
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"{where}: {_first_line(error)}") from None
    return tree or {}, lines


def parse_override(argument: str) -> tuple[str, Any]:
    """`a.b=value` -> ("a.b", the value as YAML reads it). Raises Refused for anything else."""
    key, equals, value = argument.partition("=")
    if not equals or not _KEY.match(key):
        raise Refused(f"'{argument}' is not an override: write key=value with a dotted key, as in train.steps=1000.")
    if "\n" in value:
        raise Refused(f"'{key}=…' holds a line break; put long values into a YAML file.")
    tree, _ = parse(f"value: {value}", f"override '{argument}'")
    return key, tree.get("value")


def _scan(text: str, where: str) -> dict[str, int]:
    """Check the event stream and note the line of every key."""
    lines: dict[str, int] = {}
    stack: list[_Level] = []
    nodes = documents = 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                _refuse(documents > 1, where, line, "a second document ('---'); one file is one configuration.")
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise Refused(f"{where}:{line}: anchors and aliases are not read; use 'base:' or ${{a.b}} references.")
            if not isinstance(event, yaml.NodeEvent):
                if isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                    stack.pop()
                continue
            nodes += 1
            _refuse(nodes > MAX_NODES, where, line, f"more than {MAX_NODES:,} values: this is not a configuration.")
            _refuse(event.tag not in (None, "!"), where, line, f"the tag {event.tag} is not read: YAML is plain data.")
            top = not stack
            _refuse(top and not isinstance(event, yaml.MappingStartEvent), where, line, "a configuration is a mapping.")
            key = "" if top else stack[-1].enter(event, where, line, lines)
            if isinstance(event, yaml.ScalarEvent):
                _check_scalar(event, where, line)
            else:
                stack.append(_Level(key, isinstance(event, yaml.MappingStartEvent)))
                _refuse(len(stack) > MAX_DEPTH, where, line, f"nested deeper than {MAX_DEPTH} levels.")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f":{mark.line + 1}" if mark else ""
        raise Refused(f"{where}{at}: not YAML: {getattr(error, 'problem', None) or _first_line(error)}.") from None
    return lines


class _Level:
    """One open mapping or sequence: which dotted key its next node has."""

    def __init__(self, prefix: str, mapping: bool):
        self.prefix, self.mapping, self.pending, self.count = prefix, mapping, None, 0
        self.seen: set[str] = set()

    def enter(self, event: yaml.NodeEvent, where: str, line: int, lines: dict[str, int]) -> str:
        """The dotted key of this node ("" for the key scalars themselves)."""
        if not self.mapping:
            self.count += 1
            return f"{self.prefix}.{self.count - 1}"
        if self.pending is None:
            _refuse(not isinstance(event, yaml.ScalarEvent), where, line, "a key must be a word.")
            _refuse(event.value == "<<", where, line, "merge keys ('<<') are not read; use 'base:'.")
            word = _KEY.match(event.value) and event.value.lower() not in ("true", "false", "null")
            space = " In braces a space follows the colon: {name: value}." if ":" in event.value else ""
            _refuse(not word, where, line, f"the key {event.value[:40]!r} is not a word.{space}")
            _refuse(event.value in self.seen, where, line, f"the key '{event.value}' stands here twice.")
            self.seen.add(event.value)
            self.pending = f"{self.prefix}.{event.value}".lstrip(".")
            lines[self.pending] = line
            return ""
        key, self.pending = self.pending, None
        return key


def _check_scalar(event: yaml.ScalarEvent, where: str, line: int) -> None:
    value = event.value
    _refuse("\0" in value, where, line, "a NUL character.")
    _refuse(bool(_RESOLVER.search(value)), where, line, f"{value[:60]!r}: only references like ${{a.b}} are read.")
    if event.style is None:
        for pattern, remedy in _YAML_1_1:
            _refuse(bool(pattern.match(value)), where, line, f"'{value}' is ambiguous: {remedy}.")
        digits = value.lstrip("+-").isdigit() and len(value) > MAX_DIGITS
        _refuse(digits, where, line, f"a number of {len(value)} digits.")


def _refuse(wrong: bool, where: str, line: int, what: str) -> None:
    if wrong:
        raise Refused(f"{where}:{line}: {what}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".") + "."


def _neighbours(path: Path) -> str:
    try:
        return did_you_mean(path.name, [p.name for p in path.parent.iterdir() if p.suffix in (".yaml", ".yml")])
    except OSError:
        return ""
