"""docs/zoo.md is what the registry says."""

from pathlib import Path

import pytest

import zoo  # noqa: F401
from vidiff.commands.list_zoo import page
from vidiff.registry import KINDS

FILE = Path(__file__).resolve().parents[2] / "docs" / "zoo.md"


@pytest.fixture(scope="module")
def written():
    return page()


def test_the_page_is_current(written):
    assert FILE.read_text(encoding="utf-8") == written, (
        "docs/zoo.md is not what the registry says. Type: python tools/list_zoo.py --markdown docs/zoo.md"
    )


def test_every_component_and_every_setting_stands_there(written):
    for kind in KINDS:
        for component in KINDS[kind]:
            if "zoo" in component.file.parts:
                section = written.partition(f"### `{component.name}`")[2].partition("\n### ")[0]
                assert section and component.summary in written
                assert all(f"`{name}`" in written for name in component.settings)


def test_numbers_that_are_known(written):
    """DiT's paper is on the page, and so is the size of the smallest and the default joint network."""
    joint = written.partition("### `dit_joint`")[2].partition("\n### ")[0]
    assert "https://arxiv.org/abs/2212.09748" in joint
    dim, depth, tokens = 384, 8, 16
    linear = lambda a, b: a * b + b  # noqa: E731
    block = linear(dim, 3 * dim) + linear(dim, dim) + 2 * 4 * dim * dim + 5 * dim + linear(dim, 6 * dim)
    rest = linear(256, dim) + linear(dim, dim) + linear(tokens, dim) + linear(dim, 2 * dim) + linear(dim, tokens)
    assert f"{(depth * block + rest) / 1e6:.2f}M parameters by default" in joint
    assert "| `depth` | `8` | an integer at least 1 and at most 1000 |" in joint
