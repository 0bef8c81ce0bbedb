"""Every objective with every path, sampler and guidance: which cells run, which are refused, and the run of a cell.

A cell runs a perfect network of its objective: told what an objective tells, it answers what is exact for a mixture
(or, where a model answers where trajectories lead, for a Gaussian, whose trajectories are known). Cells come from the
registry: a component is among them by being registered. `python -m tests.matrix docs/matrix.md` writes the page.

Cells that differ in their guidance only may run beside each other, as rows of one batch: the network is asked once for
all, and the sampler steps once. Every cell starts from the same noise and has the same dice, alone or not.
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path as File
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

import zoo  # noqa: F401
from tests.oracle import Mixture, gaussian, three
from tests.teacher import Teacher, built
from vidiff.building import check_sampler
from vidiff.diffusion.estimate import Aiming, Estimate, EstimateFn, through
from vidiff.diffusion.guidance import Branch, Given
from vidiff.diffusion.objective import Objective
from vidiff.diffusion.path import Path, expand
from vidiff.diffusion.sampler import start
from vidiff.random import Random
from vidiff.registry import BACKBONES, GUIDANCE, OBJECTIVES, PATHS, SAMPLERS, build
from vidiff.types import Cond, CondSpec, Grid

F64 = torch.float64
LAWS: dict[str, Mixture] = {
    "cond": gaussian([0.5, -0.2, 1.0], [0.3, 0.1, 0.8]), "uncond": three(3),
    "weak": gaussian([0.3, 0.1, 0.7], [0.6, 0.5, 1.0]), "part": gaussian([0.1, 0.2, 0.9], [0.5, 0.4, 0.9]),
}  # fmt: skip
"""What is true of a class, of everything, of a network that is disturbed or weak, and of one condition of two."""
NORMAL = {**LAWS, "uncond": gaussian([-0.3, 0.4, 0.1], [0.7, 0.9, 0.4])}
NUM, DIM = 4, 3


class Cell(NamedTuple):
    """One of each."""

    objective: str
    path: str
    sampler: str
    guidance: str


def names() -> tuple[list[str], ...]:
    """What the house has of each, without what other tests register."""
    return tuple(
        [c.name for c in registry if c.file.is_relative_to(File(__file__).resolve().parents[1] / "zoo")]
        for registry in (OBJECTIVES, PATHS, SAMPLERS, GUIDANCE)
    )


def cells() -> Iterator[Cell]:
    """All of them."""
    return itertools.starmap(Cell, itertools.product(*names()))


# ---- what is refused when a configuration is read ----


class Recalled:
    """A function of times that answers the same times from memory: a path is asked for the same ones again and again."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        self.function, self.known = function, {}

    def __call__(self, t: Tensor) -> Tensor:
        key = t.shape, t.dtype, t.numpy().tobytes()
        if key not in self.known:
            self.known[key] = self.function(t)
        return self.known[key]


@cache
def line(name: str) -> Path:
    """The path with its default settings, one for all cells."""
    made = build("path", name)
    for word in ("alpha", "sigma", "alpha_dot", "sigma_dot", "logsnr", "time"):
        setattr(made, word, Recalled(getattr(made, word)))
    return made


@cache
def objective(name: str, path: str) -> Objective | str:
    """The objective on this path, or why there is none."""
    try:
        component = OBJECTIVES[name]
        made = built(component, {**component.tiny, "path": path}, Teacher(path))
    except ValueError as error:
        return str(error)
    assert type(made.path) is type(line(path))
    made.path = line(path)
    return made


@cache
def guidance(name: str, path: str = "linear"):
    """A tiny guidance; another run, where it asks for one, knows the law of "weak"."""
    component = GUIDANCE[name]
    weak = SimpleNamespace(estimator=lambda cond, guidance=None: LAWS["weak"].estimate(line(path)))
    return component.build(component.tiny, load=lambda run: weak)


@cache
def sampler(name: str):
    """A tiny sampler; one that chooses its steps itself may do so roughly."""
    settings = SAMPLERS[name].settings
    rough = {key: 0.2 for key in ("rtol", "atol") if key in settings and settings[key].default < 1e-3}
    return SAMPLERS[name].build({**SAMPLERS[name].tiny, **rough})


@cache
def network():
    """A transformer, for guidance that disturbs its blocks."""
    component = BACKBONES["dit_joint"]
    return component.build(
        component.tiny, grid=Grid(3, 2, 4, 6), out_channels=3, cond=CondSpec(vector=component.tiny["dim"]),
        attention=build("attention", "sdpa"), positions=partial(build, "positions", "sincos"),
    )  # fmt: skip


@cache
def refusal(cell: Cell) -> str | None:
    """Why a configuration with these parts is refused, or None: what the builder asks, in its order."""
    made = objective(cell.objective, cell.path)
    if isinstance(made, str):
        return made
    model = SimpleNamespace(objective=made, conditioner=SimpleNamespace(drop=(0.1, 0.1, 0.1)), backbone=network())
    try:
        check_sampler(sampler(cell.sampler), model)
        guidance(cell.guidance, cell.path).check(model)
    except ValueError as error:
        return str(error)
    return None


# ---- the run of a cell ----


def exact(law: Mixture, path: Path, made: Objective):
    """(x, t, s or None) -> what a perfect network of this objective believes of x_t on a path."""
    if "velocity" in made.tells and "jump" not in made.tells:
        return lambda x, t, s=None: law.estimate(path)(x, t)

    def end(x: Tensor, t: Tensor, s: Tensor | None = None) -> Estimate:
        if "jump" in made.tells and s is None:
            return law.estimate(path)(x, t)
        if "step" in made.tells:
            s = (t - made.interval[1] / made.steps).clamp(min=0)
        s = torch.zeros_like(t) if s is None else s
        return through(path, x, t, transported(law, path, x, t, s), s)

    return end


def transported(law: Mixture, path: Path, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Where the probability-flow ODE of one Gaussian leads: alpha_s mu + C_s^1/2 C_t^-1/2 (x - alpha_t mu)."""
    (mean,), (spread,) = law.means, law.covariances.diagonal(dim1=1, dim2=2)

    def deviation(t: Tensor) -> Tensor:
        return (path.alpha(t)[:, None] ** 2 * spread + path.sigma(t)[:, None] ** 2).sqrt()

    return expand(path.alpha(s), x) * mean + deviation(s) / deviation(t) * (x - expand(path.alpha(t), x) * mean)


def answered(made: Objective, wanted, nudge: float = 0.0) -> EstimateFn:
    """What the objective makes of a network that answers `wanted`: asked and solved as in a run.

    Where sigma = 0 the score's scale is infinite; no network answers so, and nobody reads the answer. A `nudge` of
    the precision of float64 moves answers, and what is made of them, in their last bits: what becomes of that is the
    rounding of a run.
    """
    dice = torch.Generator().manual_seed(9)

    def moved(y: Tensor) -> Tensor:
        return y * (1 + nudge * torch.randn(y.shape, generator=dice, dtype=F64)) if nudge else y

    def estimate(x: Tensor, t: Tensor, s: Tensor | None = None) -> Estimate:
        def net(x_in: Tensor, label: Tensor, cond: Cond) -> Tensor:
            x_t = x_in / expand(made.prediction.input_scale(made.path, t), x_in)
            y = made.prediction.ask(made.path, wanted(x_t, t, s), t)
            y = torch.where((expand(made.path.sigma(t), y) == 0) & y.isnan(), torch.zeros_like(y), y)
            return torch.cat([moved(y)] * made.outputs, dim=1)

        believed = made.estimate(net, x, t, Cond(), *(() if s is None else (s,)))
        return believed.believing(moved(believed.x0), moved(believed.noise))

    return estimate


def guided(name: str, path: str, beliefs: dict, jumps: bool) -> EstimateFn:
    """The guided estimate, its branches believing (x, t, s) as `beliefs` says."""
    known = {"cond": Branch(Cond()), "uncond": Branch(Cond())}
    parts: dict[tuple[int, ...], Branch] = {}
    given = Given(*known.values(), line(path), lambda which: parts.setdefault(tuple(which), Branch(Cond())))
    aim: list[Tensor | None] = [None]

    def believe(x: Tensor, t: Tensor, branch: Branch) -> Estimate:
        word = "weak" if branch.disturb else next((w for w, b in known.items() if b is branch), "part")
        return beliefs[word](x, t, aim[0])

    run = guidance(name, path)(lambda x, t, branches: [believe(x, t, b) for b in branches], given)

    def aimed(x: Tensor, t: Tensor, s: Tensor | None) -> Estimate:
        aim[0] = s
        return run(x, t)

    return Aiming(aimed) if jumps else run


def beside(group: list[Cell], beliefs: dict, jumps: bool) -> EstimateFn:
    """The guided estimates of cells on the same path, NUM rows each; a belief is asked once for all who want it."""
    rows = [slice(NUM * i, NUM * (i + 1)) for i in range(len(group))]
    asked: list = []
    answers: dict[str, Estimate] = {}

    def share(word: str, mine: slice, x: Tensor, t: Tensor, s: Tensor | None) -> Estimate:
        if not torch.equal(x, asked[0][mine]) or not torch.equal(t, asked[1][mine]):  # guidance may ask elsewhere
            return beliefs[word](x, t, s)
        if word not in answers:
            answers[word] = beliefs[word](*asked)
        believed = answers[word]
        part = Estimate(believed.x0[mine], believed.noise[mine])
        return part.spread(None if believed.share is None else believed.share[mine])

    runs = [
        guided(cell.guidance, cell.path, {word: partial(share, word, mine) for word in beliefs}, jumps)
        for cell, mine in zip(group, rows, strict=True)
    ]

    def estimate(x: Tensor, t: Tensor, s: Tensor | None = None) -> Estimate:
        asked[:] = x, t, s
        answers.clear()
        found = [
            run.estimate(x[mine], t[mine], None if s is None else s[mine]) if jumps else run(x[mine], t[mine])
            for run, mine in zip(runs, rows, strict=True)
        ]
        shares = [e.share for e in found if e.share is not None]
        together = Estimate(*(torch.cat(parts) for parts in zip(*found, strict=True)))
        return together.spread(torch.cat(shares) if len(shares) == len(found) else None)

    return Aiming(estimate) if jumps else estimate


def noise(num: int = NUM) -> Tensor:
    """The same for every cell."""
    return torch.randn(num, DIM, generator=torch.Generator().manual_seed(8), dtype=F64)


class Alike(Random):
    """The same draws for every so many rows."""

    def _draw(self, draw, shape, dtype):
        once = len(self.rows)
        return super()._draw(draw, (once, *shape[1:]), dtype).repeat(shape[0] // once, *[1] * (len(shape) - 1))


@torch.inference_mode()
def drawn(group: list[Cell], beliefs: dict, watch=lambda t: None) -> Tensor:
    """What a sampler makes of the noise for cells of one objective, path and sampler: (cells, NUM, DIM)."""
    made, steps = objective(*group[0][:2]), sampler(group[0].sampler)
    estimate, dice = beside(group, beliefs, "jump" in made.tells), Alike(4, "sample", rows=range(NUM))
    times = steps.spacing(steps.steps, made.path, made.interval)
    if isinstance(estimate, Aiming):
        watched = Aiming(lambda x, t, s: watch(t) or estimate.estimate(x, t, s))
    else:
        watched = lambda x, t: watch(t) or estimate(x, t)  # noqa: E731
    x = start(made.path, noise().repeat(len(group), 1), times[0])
    return steps(watched, x, times, made.path, dice).reshape(len(group), NUM, DIM)


def run(group: list[Cell], watch=lambda t: None, nudge: float = 0.0) -> Tensor:
    """The samples of cells that differ in guidance, through the network's own answers: (cells, NUM, DIM)."""
    made = objective(*group[0][:2])
    laws = LAWS if made.tells == {"velocity"} else NORMAL
    beliefs = {word: answered(made, exact(law, made.path, made), nudge) for word, law in laws.items()}
    return drawn(group, beliefs, watch)


_TRUTHS: dict[tuple, Tensor] = {}


def truth(group: list[Cell]) -> Tensor:
    """The samples of exact beliefs themselves: one for all objectives on a path that tell the same."""
    made = objective(*group[0][:2])
    told = made.interval, made.tells, getattr(made, "steps", None) if "step" in made.tells else None
    new = [cell for cell in group if (*cell[1:], *told) not in _TRUTHS]
    if new:
        laws = LAWS if made.tells == {"velocity"} else NORMAL
        samples = drawn(new, {word: exact(law, made.path, made) for word, law in laws.items()})
        _TRUTHS.update({(*cell[1:], *told): sample for cell, sample in zip(new, samples, strict=True)})
    return torch.stack([_TRUTHS[(*cell[1:], *told)] for cell in group])


def covering() -> list[Cell]:
    """Cells in which every two components of different kinds meet: in one that runs, wherever there is one."""
    kinds, chosen, left = names(), [], {}
    for (i, a), (j, b) in itertools.combinations(enumerate(kinds), 2):
        left |= dict.fromkeys((i, x, j, y) for x in a for y in b)
    for i, x, j, y in sorted(left, key=lambda pair: (pair[0] != 0 or pair[2] != 2, pair)):
        if (i, x, j, y) in left:
            cell = companion(i, x, j, y, kinds, left)
            chosen.append(cell)
            met = pairs(cell) if refusal(cell) is None else {(i, x, j, y)}
            left = {pair: None for pair in left if pair not in met}
    return chosen


def companion(i: int, x: str, j: int, y: str, kinds: tuple[list[str], ...], left: dict) -> Cell:
    """A cell with these two: of those that run, one in which many meet for the first time."""
    one, other = (k for k in range(4) if k not in (i, j))
    best, most = None, -1
    shift = zlib.crc32(f"{x} {y}".encode())  # so that the others take turns
    rest = list(itertools.product(kinds[one], kinds[other]))
    for k in range(len(rest)):
        parts = dict(zip((i, j, one, other), (x, y, *rest[(shift + k) % len(rest)]), strict=True))
        cell = Cell(*(parts[n] for n in range(4)))
        new = len(pairs(cell) & left.keys()) if refusal(cell) is None else 0
        if new > most:
            best, most = cell, new
        if most >= 3 or (k > 60 and most > 0):
            break
    return best


def pairs(cell: Cell) -> set[tuple]:
    """The pairs of components that meet in a cell."""
    return {(i, x, j, y) for (i, x), (j, y) in itertools.combinations(enumerate(cell), 2)}


# ---- the page ----

HEAD = """# The matrix

Every objective with every path, sampler and guidance: {total:,} cells, of which {runs:,} run and {refused:,} are refused when
the configuration is read. Written by `python -m tests.matrix docs/matrix.md`; a test says when to write it again.

A cell that runs is run: a perfect network of its objective is asked and solved as in any run, guided and sampled in float64,
and ends on the samples of the exact beliefs themselves, to 1e-9 (samplers that choose their steps by the beliefs, to 1e-4);
where rounding does more than that, to twenty times what the last bits of its beliefs do, and never beyond 1e-5
(those that choose their steps may then choose others: to their tolerance).
The default suite runs {covering} cells in which every two components meet, each alone; `make test-all` runs every cell
([test_matrix.py](../tests/test_matrix.py)), those that differ in their guidance only as rows of one batch. That the samples of exact beliefs are right is shown once for all objectives: the law
of the data along every path (means, covariances, sliced Wasserstein distance, [checks/sampler.py](../vidiff/checks/sampler.py)),
the guided laws, closed forms of K steps on Gaussian data, and orders of convergence
([test_orders.py](../tests/zoo/samplers/test_orders.py)).

All components have their tiny settings, on the objective's own interval. A dot is a pair that runs (with some choice of the
other two); a number says why none does. An impossible prediction runs on a shorter `objective.interval`, as its reason says.
"""


def page() -> str:
    """The whole matrix as Markdown."""
    objectives, paths, samplers, guidances = names()
    refused = sum(refusal(cell) is not None for cell in cells())
    total = len(objectives) * len(paths) * len(samplers) * len(guidances)
    reasons: dict[str, int] = {}
    told = dict(total=total, runs=total - refused, refused=refused, covering=len(covering()))
    parts = [HEAD.format(**told)]
    tables = (("Objective and sampler", 2, 0), ("Objective and path", 1, 0), ("Guidance and path", 1, 3),
              ("Guidance and sampler", 2, 3), ("Objective and guidance", 0, 3))  # fmt: skip
    for title, row, column in tables:
        parts += [f"\n## {title}\n\n", *table(row, column, reasons)]
    parts.append("\n## Reasons\n\n")
    parts += [f"{number}. {reason}\n" for reason, number in reasons.items()]
    return "".join(parts)


def table(row: int, column: int, reasons: dict[str, int]) -> Iterator[str]:
    """One kind against another: a dot, or the number of the reason."""
    kinds = names()
    yield f"| | {' | '.join(f'`{name}`' for name in kinds[column])} |\n|---{'|:-:' * len(kinds[column])}|\n"
    for one in kinds[row]:
        marks = (mark(pair_refusal(row, one, column, other), reasons) for other in kinds[column])
        yield f"| `{one}` | {' | '.join(marks)} |\n"


PERMISSIVE = Cell("v_prediction", "linear", "euler", "none")
"""What goes with almost everything, so that a refusal is the other two's."""


def pair_refusal(i: int, x: str, j: int, y: str) -> str | None:
    """Why no cell with these two runs, or None when one does."""
    kinds = names()
    rest = [[x] if k == i else [y] if k == j else kind for k, kind in enumerate(kinds)]
    if any(refusal(cell) is None for cell in itertools.starmap(Cell, itertools.product(*rest))):
        return None
    alone = Cell(*(x if k == i else y if k == j else PERMISSIVE[k] for k in range(4)))
    return refusal(alone) or next(r for c in itertools.starmap(Cell, itertools.product(*rest)) if (r := refusal(c)))


def mark(reason: str | None, reasons: dict[str, int]) -> str:
    """A dot, or the reason's number."""
    return "·" if reason is None else str(reasons.setdefault(reason, len(reasons) + 1))


if __name__ == "__main__":
    File(sys.argv[1]).write_text(page(), encoding="utf-8")
