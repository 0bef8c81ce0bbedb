"""Hostile YAML is refused in one line, with its line number, before OmegaConf sees it."""

import os
import time

import pytest

from vidiff.config.reading import MAX_DEPTH, parse, parse_override, read_yaml
from vidiff.errors import Refused


def test_values_and_lines():
    tree, lines = parse("a:\n  b: 1e-3\n  c: [1, 2]\nd: text\n", "x.yaml")
    assert tree == {"a": {"b": 0.001, "c": [1, 2]}, "d": "text"}
    assert lines == {"a": 1, "a.b": 2, "a.c": 3, "d": 4}


HOSTILE = {
    "tag": ("a: !!python/object/apply:os.system [id]", "tag"),
    "short tag": ("a: !!str 3", "tag"),
    "resolver": ("a: ${oc.env:HOME}", "only references"),
    "custom resolver": ("a: 'x ${f:1}'", "only references"),
    "anchor": ("a: &x 1\nb: *x", "anchors"),
    "merge": ("a: {b: 1}\nc: {<<: {b: 1}}", "merge"),
    "duplicate": ("a: 1\na: 2", "twice"),
    "two documents": ("a: 1\n---\nb: 2", "second document"),
    "nul": ('a: "x\\0y"', "NUL"),
    "no space": ("a: {name:b, c: 2}", "a space follows the colon"),
    "yes": ("a: yes", "true or false"),
    "base 60": ("a: 12:30:00", "base 60"),
    "octal": ("a: 010", "octal"),
    "digits": ("a: " + "9" * 5000, "digits"),
    "unclosed": ("a: [1, 2", "not YAML"),
    "list": ("- 1\n- 2", "mapping"),
    "scalar": ("hello", "mapping"),
    "list key": ("? [1, 2]\n: 3", "key"),
    "tab": ("a:\n\tb: 1", "not YAML"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_refused_in_one_line(name):
    text, word = HOSTILE[name]
    with pytest.raises(Refused, match=word) as caught:
        parse(text, "x.yaml")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("x.yaml")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{a: " * 50_000, "a:\n" + "".join(" " * i + "- \n" for i in range(1, 500)), "- " * 20_000]
)
def test_absurd_depth_neither_crashes_nor_hangs(text):
    began = time.perf_counter()
    with pytest.raises(Refused):
        parse(text, "deep.yaml")
    assert time.perf_counter() - began < 5


def test_depth_just_inside_the_limit_is_read():
    levels = MAX_DEPTH - 2
    tree, _ = parse("{a: " * levels + "1" + "}" * levels, "x.yaml")
    for _ in range(levels):
        tree = tree["a"]
    assert tree == 1


def test_too_many_values():
    with pytest.raises(Refused, match="values"):
        parse("a: [" + "1," * 60_000 + "]", "x.yaml")


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        (b"\xff\xfea\x00:\x00", "UTF-8"),
        (b"a: \xe9\n", "UTF-8"),
        (b"a: 1\n" * 300_000, "larger than"),
        (b"a\x00b: 1", "YAML"),
    ],
)
def test_hostile_bytes(tmp_path, raw, word):
    file = tmp_path / "x.yaml"
    file.write_bytes(raw)
    with pytest.raises(Refused, match=word):
        read_yaml(file)


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "fifo.yaml")
    for path in (tmp_path / "fifo.yaml", tmp_path, "/dev/zero"):
        with pytest.raises(Refused, match="not a regular file"):
            read_yaml(type(tmp_path)(path))


def test_a_missing_file_names_its_neighbour(tmp_path):
    (tmp_path / "latte_v.yaml").write_text("a: 1")
    with pytest.raises(Refused, match="does not exist. Did you mean 'latte_v.yaml'?"):
        read_yaml(tmp_path / "late_v.yaml")


def test_empty_file_is_an_empty_mapping(tmp_path):
    (tmp_path / "x.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "x.yaml") == ({}, {})


@pytest.mark.parametrize(
    ("argument", "key", "value"),
    [("a.b=1", "a.b", 1), ("a=1e-4", "a", 1e-4), ("a=[1,2]", "a", [1, 2]), ("a=x", "a", "x"), ("a=", "a", None),
     ("a=b=c", "a", "b=c"), ("a={name: x}", "a", {"name": "x"}), ("a=true", "a", True)],
)  # fmt: skip
def test_overrides(argument, key, value):
    assert parse_override(argument) == (key, value)


@pytest.mark.parametrize(
    "argument", ["+a=1", "~a", "=1", "a.0=1", "a", "a[0]=1", "a=[1,2", "a=${oc.env:X}", "a=!!x 1", "a=yes", "a=1\nb: 2"]
)
def test_broken_overrides_are_one_line(argument):
    with pytest.raises(Refused) as caught:
        parse_override(argument)
    assert "\n" not in str(caught.value)
