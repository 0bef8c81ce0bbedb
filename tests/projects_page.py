"""docs/projects.md: every project with its size and its work, counted. `python -m tests.projects_page docs/projects.md`"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from tests.test_projects import PROJECTS, ROOT, SIZES, planned
from vidiff.building import count_parameters
from vidiff.engine.profile import cost

HEAD = """\
# Projects

A project is one YAML file: `python tools/train.py projects/nano_sora_cpu.yaml`. What each is for, and what it leaves out, stands in its first lines.
Every number here is counted from the files (`python -m tests.projects_page docs/projects.md`; a test compares): FLOPs count a multiply-add
as 2, a training step is forward and backward of a whole batch. Two CPU cores do about 1 PFLOP an hour.

"""

SIZES_HEAD = """
## Sizes of the second system

`base: [advanced.yaml, _base/advanced_SIZE.yaml]` takes one; `advanced.yaml` is the medium one. A block has 25 D² weights and a little more.

"""

DIT_HEAD = """
## Sizes of DiT, SiT and Latte

`base: _base/SIZE.yaml` beside a backbone (2212.09748, table 1). Networks here are of clips of 16 frames of 64×64 in patches of 4×4, one class table of ten.

"""

ANNOUNCED = {"small": "~100 M", "medium": "~400 M", "large": "~1 B", "xl": "~3 B"}


def page() -> str:
    """The whole page."""
    rows = [_project(path) for path in PROJECTS]
    sizes = [_size(path) for path in sorted(SIZES, key=lambda p: list(ANNOUNCED).index(p.stem.partition("_")[2]))]
    dits = [_dit(name) for name in ("S", "B", "L", "XL")]
    return (
        HEAD
        + table(
            ("project", "what", "backbone", "tokens", "parameters", "TFLOP a step", "steps", "PFLOP in all"), rows, 3
        )
        + SIZES_HEAD
        + table(("size", "dim, depth, heads", "announced", "parameters in blocks", "of the whole network"), sizes)
        + DIT_HEAD
        + table(("size", "dim, depth, heads", "dit_joint", "dit_factorized"), dits)
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2) -> str:
    """GitHub's Markdown; the first columns are words."""
    rule = ["---" if i < words else "--:" for i in range(len(head))]
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def _project(path: Path) -> tuple[str, ...]:
    made = planned(path)
    counted, train = cost(made), made.config.train
    step = counted.training_flops * train.batch_size
    return (
        f"[{path.stem}](../projects/{path.name})", made.config.description, made.config.components["backbone"]["name"],
        f"{counted.tokens:,}", f"{counted.parameters:,}", f"{step / 1e12:,.2f}", f"{train.steps:,}",
        f"{step * train.steps / 1e15:,.2f}",
    )  # fmt: skip


def _size(path: Path) -> tuple[str, ...]:
    node = yaml.safe_load(path.read_text())["backbone"]
    name = path.stem.partition("_")[2]
    whole = planned(ROOT / "projects/advanced.yaml", *(f"backbone.{key}={value}" for key, value in node.items()))
    return (name, _shape(node), ANNOUNCED[name], f"{count_parameters(whole.diffuser.backbone.blocks):,}",
            f"{cost(whole).parameters:,}")  # fmt: skip


def _dit(name: str) -> tuple[str, ...]:
    node = yaml.safe_load((ROOT / f"projects/_base/{name}.yaml").read_text())["backbone"]
    shape = [f"backbone.{key}={value}" for key, value in node.items()]
    nets = [planned(ROOT / "projects/latte_v.yaml", f"backbone.name={net}", *shape, "objective=rectified_flow",
                    "sampler=euler", "conditioner=label") for net in ("dit_joint", "dit_factorized")]  # fmt: skip
    return (name, _shape(node), *(f"{cost(made).parameters:,}" for made in nets))


def _shape(node: dict) -> str:
    return f"{node['dim']:,}, {node['depth']}, {node['num_heads']}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
