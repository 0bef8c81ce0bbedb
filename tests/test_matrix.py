"""Every objective with every path, sampler and guidance, proven with exact networks or refused with the reason.

tests/matrix.py makes the cells and says what is proven; docs/matrix.md is the page.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests.matrix import (
    F64,
    Cell,
    cells,
    covering,
    names,
    page,
    pairs,
    refusal,
    run,
    sampler,
    truth,
)
from tests.oracle import gaussian
from vidiff.building import plan
from vidiff.config import ConfigError, load
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.guidance import Branch, Given
from vidiff.diffusion.sampler import start
from vidiff.random import generator
from vidiff.registry import GUIDANCE, KINDS, PATHS, SAMPLERS, build
from vidiff.types import Cond

ROOT = Path(__file__).resolve().parents[1]
OBJECTIVES_, PATHS_, SAMPLERS_, GUIDANCE_ = names()
COVERING = covering()


def rounded(group: tuple[Cell, ...], found: torch.Tensor) -> torch.Tensor:
    """Twenty times what the last bits of the network's answers change in the samples of each cell, (cells,).

    Never more than 1e-5 of the samples: few steps of a strong guidance may blow bits up, not answer another question.
    A sampler that chooses its steps by errors, which begin as rounding, may choose others: to its tolerance.
    """
    if sampler(group[0].sampler).evaluations is None:
        return sampler(group[0].sampler).rtol * found.abs().amax((1, 2))
    moved = (run(group, nudge=torch.finfo(F64).eps) - found).abs().amax((1, 2))
    return torch.minimum(20 * moved, 1e-5 * found.abs().amax((1, 2)))


def holds(*group: Cell) -> None:
    """Its network's own answers lead where exact beliefs lead, in as many evaluations as promised.

    Several cells are of one objective, path and sampler, and run beside each other.
    """
    asked = []
    found, wanted, promised = run(group, asked.append), truth(group), sampler(group[0].sampler).evaluations
    near = 1e-9 if promised is not None else 1e-4  # adaptive steps follow the rounding
    assert found.isfinite().all(), group
    if not torch.allclose(found, wanted, rtol=near, atol=near):
        error, rounding = (found - wanted).abs().amax((1, 2)), rounded(group, found)
        assert (error < near + rounding).all(), (group, error, rounding)
    slopes = PATHS_WITH_ENDS.get(group[0].path, True)
    assert promised is None or len(asked) == promised or (not slopes and len(asked) < promised), (group, len(asked))


PATHS_WITH_ENDS = {
    name: bool(torch.isfinite(torch.stack([c(torch.tensor([0.0, 1.0], dtype=F64)) for c in (p.alpha_dot, p.sigma_dot)])).all())
    for name in PATHS_ for p in [PATHS[name].build()]
}  # fmt: skip
"""Whether the slope dx/dt is finite at both ends; else a step that touches one takes one evaluation."""


@pytest.mark.parametrize("name", SAMPLERS_)
def test_cells_in_which_every_two_components_meet(name):
    mine = [cell for cell in COVERING if cell.sampler == name]
    ran = [cell for cell in mine if refusal(cell) is None]
    for cell in ran:
        holds(cell)
    assert ran and all("Use " in refusal(cell) for cell in mine if cell not in ran)


def test_the_covering_cells_let_every_two_components_meet():
    """In a cell that runs, wherever one does."""
    met = {pair for cell in COVERING if refusal(cell) is None for pair in pairs(cell)}
    possible = {pair for cell in cells() if refusal(cell) is None for pair in pairs(cell)}
    assert met == possible


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS_)
def test_cells_beside_each_other_are_cells_alone(name):
    """Bit for bit but for the order of sums in products of matrices."""
    for cell in COVERING:
        if cell.sampler == name and refusal(cell) is None:
            group = [c for g in GUIDANCE_ if refusal(c := cell._replace(guidance=g)) is None]
            near = 1e-12 if sampler(name).evaluations is not None else 1e-4  # adaptive steps follow the rounding
            beside = run(group)[group.index(cell)]
            assert torch.allclose(run([cell])[0], beside, rtol=near, atol=near), cell


def faults(group: list[Cell]) -> Iterator[str]:
    """Which of these cells do not hold, and why: together if they can, else one by one."""
    try:
        holds(*group)
    except Exception as together:
        alone = [found for cell in group if (found := fault(cell))]
        yield from alone or [f"only beside each other: {together}"]


def fault(cell: Cell) -> str | None:
    """Why a cell does not hold."""
    try:
        holds(cell)
    except Exception as error:
        return f"{cell}: {type(error).__name__}: {error}"
    return None


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS_)
@pytest.mark.parametrize("name", SAMPLERS_)
def test_every_cell(name, path):
    """By sampler and path, so that one test makes a truth once, for all objectives that it is the truth of."""
    found = []
    for kind in OBJECTIVES_:
        mine = [Cell(kind, path, name, guidance) for guidance in GUIDANCE_]
        reasons = {cell: refusal(cell) for cell in mine}
        found += [f"{cell} is refused without a remedy: {r}" for cell, r in reasons.items() if r and "Use " not in r]
        if ran := [cell for cell in mine if reasons[cell] is None]:
            found += faults(ran)
    assert not found, f"{len(found)} cells:\n" + "\n".join(found[:20])


# ---- refusals are those of a configuration ----


CONFIG = {
    "data": {"name": "gaussian_mixture", "shape": [3, 8, 4, 6], "num_classes": 3},
    "tokenizer": {"name": "tubelet", "size": [2, 2, 2]},
    "backbone": {"name": "dit_joint", "dim": 32, "depth": 2, "num_heads": 2},
    "conditioner": {"name": "several", "parts": ["label", {"name": "frames", "frames": [0]}]},
    "attention": "math",
}


def configured(folder: Path, cell: Cell):
    """The configuration of a cell; other runs that it names are one by rectified flow."""
    folder.mkdir(exist_ok=True)
    teacher = folder / "teacher"
    if not teacher.exists():
        teacher.mkdir()
        (folder / "plain.yaml").write_text(yaml.safe_dump(CONFIG))
        (teacher / "config.yaml").write_text(load(folder / "plain.yaml").to_yaml())
    tree = dict(CONFIG)
    for key, name in zip(("objective", "path", "sampler", "guidance"), cell, strict=True):
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in KINDS[key][name].tiny.items()}
        settings |= {k: str(teacher) for k in ("teacher", "weak") if k in KINDS[key][name].settings}
        if key == "path":
            tree["objective"]["path"] = name
        else:
            tree[key] = {"name": name, **settings}
    (folder / "cell.yaml").write_text(yaml.safe_dump(tree))
    return load(folder / "cell.yaml")


def config_refusal(folder: Path, cell: Cell) -> list[str]:
    """What `plan` says against a cell."""
    try:
        plan(configured(folder, cell))
    except ConfigError as error:
        return error.problems
    return []


def sample_of(cells_: list[Cell], each: int) -> list[Cell]:
    """Up to so many cells for every reason there is, and of those that run."""
    kinds = defaultdict(list)
    for cell in cells_:
        kinds[refusal(cell)].append(cell)
    return [cell for some in kinds.values() for cell in some[:each]]


def agrees(folder: Path, cell: Cell) -> None:
    """`plan` refuses it for the reason of the matrix, in one line, or has nothing against it."""
    problems, reason = config_refusal(folder, cell), refusal(cell)
    assert all("\n" not in problem for problem in problems)
    if reason is None:
        assert not problems, (cell, problems)
    else:
        assert any(reason in problem for problem in problems), (cell, reason, problems)


def test_configurations_of_cells_are_refused_for_these_reasons(tmp_path):
    for cell in sample_of(COVERING, 1):
        agrees(tmp_path / "some", cell)


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES_)
def test_configurations_of_all_covering_cells_say_the_same(tmp_path, name):
    for cell in COVERING:
        if cell.objective == name:
            agrees(tmp_path / "all", cell)


# ---- the truth that cells are compared with ----


S, NUM = 0.4, 400
MEANS = {"cond": [0.5, -0.2, 1.0], "uncond": [-0.3, 0.4, 0.1], "weak": [0.2, 0.1, 0.6], "part": [0.3, 0.3, 0.5]}
LINEAR = {
    "none": {}, "cfg": {"scale": 1.7}, "interval": {"guidance": {"name": "cfg", "scale": 1.7}, "sigma_min": 0.0, "sigma_max": None},
    "per_condition": {"scales": [1.4, 1.8]}, "autoguidance": {"scale": 1.6}, "pag": {"scale": 1.6}, "stg": {"scale": 1.6},
}  # fmt: skip
"""Guidance that adds beliefs up: in Gaussians of one covariance the guided field is a Gaussian's, of mean as below."""


def guided_mean(name: str) -> torch.Tensor:
    c, u, w, p = (torch.tensor(MEANS[key], dtype=F64) for key in ("cond", "uncond", "weak", "part"))
    return {
        "none": c, "cfg": u + 1.7 * (c - u), "interval": u + 1.7 * (c - u),
        "per_condition": u + 1.4 * (p - u) + 1.8 * (c - p), "autoguidance": c + 0.6 * (c - w),
        "pag": c + 0.6 * (c - w), "stg": c + 0.6 * (c - w),
    }[name]  # fmt: skip


def guided_law(path, name: str):
    """The estimate guided in the field of four Gaussians."""
    believe = {key: gaussian(mean, [S**2] * 3).estimate(path) for key, mean in MEANS.items()}
    part = Branch(Cond())
    given = Given(Branch(Cond()), Branch(Cond()), path, lambda parts: part)
    settings = {**GUIDANCE[name].tiny, **LINEAR[name]}
    settings |= {"guidance": "none"} if name in ("pag", "stg") else {}
    weak = type("Weak", (), {"estimator": lambda self, cond, guidance=None: believe["weak"]})()

    def belief(x, t, b) -> Estimate:
        word = "weak" if b.disturb else "cond" if b is given.cond else "uncond" if b is given.uncond else "part"
        return believe[word](x, t)

    made = GUIDANCE[name].build(settings, load=lambda run: weak)
    return made(lambda x, t, branches: [belief(x, t, b) for b in branches], given)


class Bulk:
    """Fresh noise for many rows at once."""

    def __init__(self):
        self.g = generator(4, "fresh")

    def normal(self, shape, dtype):
        return torch.randn(shape, generator=self.g, dtype=dtype)


SPREADING = [n for n in SAMPLERS_ if SAMPLERS[n].target.spreads and "velocity" in SAMPLERS[n].target.asks]
EVERY = [p if p == "cosine" else pytest.param(p, marks=pytest.mark.slow) for p in ("cosine", "linear", "vp", "ve")]


@pytest.mark.parametrize("path", EVERY)
@pytest.mark.parametrize("name", SPREADING)
def test_guided_samples_have_the_law_of_the_guided_field(name, path):
    """Mean and deviation of 400 samples in 3 dimensions, after so many steps that no bias is left."""
    path = PATHS[path].build()
    steps = 150 if name in ("euler_maruyama", "dpm2_ancestral", "ode_euler", "euler_churn") else 40
    settings = {
        **SAMPLERS[name].tiny,
        **({"rtol": 1e-3} if name == "dpm_adaptive" else {}),
        "steps": steps,
        "spacing": "logsnr" if path.norm(torch.ones((), dtype=F64)) > 2 else "uniform",
    }
    made = SAMPLERS[name].build(settings)
    for kind in LINEAR:
        x = torch.randn(NUM, 3, generator=generator(3, "start"), dtype=F64)
        times = made.spacing(steps, path, (0.0, 1.0))
        out = made(guided_law(path, kind), start(path, x, times[0]), times, path, Bulk())
        error = (out.mean(0) - guided_mean(kind)).abs().max()
        assert error < 5 * S / math.sqrt(NUM) + 0.01, (kind, error)
        assert out.std(0) == pytest.approx([S] * 3, rel=0.2), kind


MEAN, VARIANCE = torch.tensor([0.5, -0.3, 0.8], dtype=F64), torch.tensor([0.3, 0.05, 1.7], dtype=F64)


def k_steps(path, times, fresh) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance after the steps of any sampler x_s = alpha_s x0 + sqrt(sigma_s^2 - z^2) noise + z fresh.

    On N(m, v) beliefs are affine: x0 = m + alpha v/c y, noise = sigma/c y, with y = x - alpha m and c = alpha^2 v + sigma^2.
    """
    alpha, sigma = path.alpha(times)[:, None], path.sigma(times)[:, None]
    y, spread = -alpha[0] * MEAN, (alpha[0] ** 2 + sigma[0] ** 2).expand(3)  # start: noise alone
    for k in range(len(times) - 1):
        c = alpha[k] ** 2 * VARIANCE + sigma[k] ** 2
        z = fresh(path, times[k], times[k + 1])
        kept = (sigma[k + 1] ** 2 - z**2).clamp(min=0).sqrt()
        slope = (alpha[k + 1] * alpha[k] * VARIANCE + kept * sigma[k]) / c
        y, spread = slope * y, slope**2 * spread + z**2
    return alpha[-1] * MEAN + y, spread


def posterior(path, t, s):
    """z of DDPM: beta~ = sigma_s^2 / sigma_t^2 (sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2)."""
    beta = path.sigma(t) ** 2 - (path.alpha(t) / path.alpha(s) * path.sigma(s)) ** 2
    return path.sigma(s) / path.sigma(t) * beta.clamp(min=0).sqrt()


def pure(num):
    """Noise of mean 0 and variance 1 exactly."""
    x = torch.randn(num, 3, generator=generator(7, "pure"), dtype=F64)
    return (x - x.mean(0)) / x.std(0, correction=0)


@pytest.mark.parametrize("path", PATHS_)
@pytest.mark.parametrize(("node", "fresh"), [
    ({"name": "euler"}, lambda path, t, s: 0 * s),
    ({"name": "ancestral"}, posterior), ({"name": "ddpm"}, posterior),
    ({"name": "ancestral", "eta": 0.5}, lambda path, t, s: 0.5 * posterior(path, t, s)),
], ids=["euler", "ancestral", "ddpm", "eta"])  # fmt: skip
def test_k_steps_on_gaussian_data_have_the_moments_of_the_closed_form(node, fresh, path):
    """Deterministic: to 1e-8. With noise: mean and variance over 20,000 rows, within 5 standard errors."""
    path, num = PATHS[path].build(), 20_000
    made = build("sampler", {**node, "steps": 6})
    times = torch.linspace(1, 0, 7, dtype=F64) ** (3 if path.norm(torch.ones((), dtype=F64)) > 2 else 1)
    mean, spread = k_steps(path, times, fresh)
    x = start(path, pure(num), times[0])
    out = made(gaussian(MEAN.tolist(), VARIANCE.tolist()).estimate(path), x, times, path, Bulk())
    near = 1e-8 if node["name"] == "euler" else 5 * math.sqrt(2 / num)
    assert torch.allclose(out.mean(0), mean, rtol=near, atol=near * spread.max().sqrt())
    assert torch.allclose(out.var(0, correction=0), spread, rtol=near, atol=1e-12)


def test_the_page_is_the_matrix():
    assert (ROOT / "docs/matrix.md").read_text() == page(), "run: python -m tests.matrix docs/matrix.md"
