"""Mutated configurations and hostile command lines: accepted or refused in words, never anything else."""

import random
import re

import pytest

import zoo  # noqa: F401
from vidiff.building import plan
from vidiff.config import load
from vidiff.errors import Refused

SEED_TEXT = """\
data: {name: moving_digits, size: 32, frames: 16, digits: 1}
tokenizer:
  name: tubelet
  size: [2, 8, 8]
backbone: {name: dit_joint, dim: 48, depth: 2, num_heads: 4}
conditioner: {name: label, drop: 0.1}
objective:
  name: rectified_flow
  path: linear
  times: {name: logit_normal}
sampler: {name: heun, steps: 5, spacing: uniform}
guidance: {name: cfg, scale: 2.0}
train: {steps: 10, batch_size: 4, precision: bf16}
callbacks:
  samples: {every: 5, num: 2}
"""

JUNK = ["null", "true", "-1", "0", "1.5", "1e309", ".nan", "[]", "{}", "''", "'${a.b}'", "${oc.env:HOME}", "!!python/x y",
        "&a 1", "*a", "yes", "010", "1:30", "[1, [2]]", "{name: 3}", "{name: null}", "\\", "\t", "%s", "../..", "~", "\u202e",
        "9" * 40, "linear", "dit_joint", "{name: linear, name: vp}", "? x"]  # fmt: skip


def mutate(rng: random.Random, text: str) -> str:
    kind = rng.randrange(7)
    words = list(re.finditer(r"[\w.]+", text))
    word = rng.choice(words)
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(text))
    if kind == 0:
        return text[: word.start()] + rng.choice(JUNK) + text[word.end() :]
    if kind == 1:
        return text[:at] + rng.choice(":{}[],#&*!|>'\"%@`\n \t\0xé") + text[at:]
    if kind == 2:
        return text[:at] + text[at + rng.randrange(1, 9) :]
    if kind == 3:
        i = rng.randrange(len(lines))
        return "".join([*lines[:i], *lines[i + 1 :]])
    if kind == 4:
        i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
        return "".join([*lines[:i], lines[j], *lines[i:]])
    if kind == 5:
        letters = list(word.group())
        i = rng.randrange(len(letters))
        letters[i] = rng.choice("aeioux_19")
        return text[: word.start()] + "".join(letters) + text[word.end() :]
    return text[: word.start()] + rng.choice(words).group() + text[word.end() :]


def override(rng: random.Random) -> str:
    keys = ["backbone.dim", "backbone", "objective.path", "objective.path.beta_max", "train.steps", "sampler", "a", "",
            "data.size", "callbacks.samples.every", "callbacks", "tokenizer.size", "+x", "~y", "a..b", "a.0", "train"]  # fmt: skip
    return rng.choice(keys) + rng.choice(["=", "==", "", " = ", ":"]) + rng.choice([*JUNK, "7", "x"])


def attempt(tmp_path, text: str, overrides: list[str]) -> str:
    """'built', or the refusal; anything else is a bug and raises."""
    file = tmp_path / "x.yaml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    try:
        plan(load(file, overrides))
    except Refused as error:
        assert str(error).strip()
        for line in str(error).splitlines():
            assert 15 < len(line) < 900, line
        return str(error)
    return "built"


def fuzz(tmp_path, rounds: int, seed: int) -> None:
    rng = random.Random(seed)
    built = 0
    for _ in range(rounds):
        text, overrides = SEED_TEXT, []
        for _ in range(rng.choice([1, 1, 2, 4])):
            text = mutate(rng, text)
        if rng.random() < 0.3:
            overrides = [override(rng) for _ in range(rng.randrange(1, 3))]
        try:
            built += attempt(tmp_path, text, overrides) == "built"
        except Exception as error:
            raise AssertionError(f"{type(error).__name__}: {error}\n{overrides}\n{text}") from error
    assert 0 < built < rounds
    assert {p.name for p in tmp_path.iterdir()} == {"x.yaml"}


def test_the_seed_builds(tmp_path):
    assert attempt(tmp_path, SEED_TEXT, []) == "built"


def test_mutants(tmp_path):
    fuzz(tmp_path, 400, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_ten_thousand_mutants(tmp_path, seed):
    fuzz(tmp_path, 1000, seed)
