"""What every sampler promises: a function of its arguments that leads exact denoisers to the data.

The perfect network is that of a mixture of Gaussians (vidiff.diffusion.mixture), or of data that are one point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vidiff.checks.parts import Beside, apart, registered, require, watched_dice
from vidiff.diffusion.estimate import Estimate, EstimateFn, Prediction
from vidiff.diffusion.mixture import Mixture
from vidiff.diffusion.path import Path
from vidiff.diffusion.sampler import Sampler
from vidiff.diffusion.sampler import start as start_of
from vidiff.random import Random, generator
from vidiff.registry import Component, build

NUM, D = 5, 3
POINT = torch.tensor([0.4, -1.3, 0.8], dtype=torch.float64)
FEW, TWO = ("linear", "cosine", "ddpm", "ve"), ("linear", "cosine")
"""One path of each sort, and those for what takes a second; tests/contracts/test_sampler.py has the others."""
STRAIGHT = ("linear", "ve")
"""Where the way to a single data point is a straight line in t."""
ONE = torch.ones((), dtype=torch.float64)


def make(component: Component) -> Sampler:
    """A tiny one."""
    return component.build(component.tiny)


def law(dim: int = D) -> Mixture:
    """Three correlated Gaussians: unit variance on average, a mean, nothing symmetric."""
    g = generator(0, "three", dim)
    means = torch.randn(3, dim, generator=g, dtype=torch.float64)
    roots = 0.35 * torch.randn(3, dim, dim, generator=g, dtype=torch.float64)
    covariances = roots @ roots.mT + 0.02 * torch.eye(dim, dtype=torch.float64)
    raw = Mixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covariances)
    variance = raw.covariance.trace() / dim
    return Mixture(raw.weights, means / variance.sqrt(), covariances / variance)


def draws(num: int = NUM, seed: int = 4) -> Random:
    """Fresh noise of so many rows."""
    return Random(seed, "sample", rows=range(num))


def begin(path: Path, t: float, num: int = NUM) -> Tensor:
    """Noise at t."""
    noise = torch.randn(num, D, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    return start_of(path, noise, torch.as_tensor(t, dtype=torch.float64))


def grid(steps: int, high: float = 1.0) -> Tensor:
    """Equal steps down to clean."""
    return torch.linspace(high, 0, steps + 1, dtype=torch.float64)


def through(exact: EstimateFn, prediction: Prediction, path: Path) -> EstimateFn:
    """The estimate as a network of this prediction would give it: asked, then solved."""
    return lambda x, t: prediction.solve(path, x, prediction.ask(path, exact(x, t), t), t)


def needs_no_prediction_on(component: Component, name: str) -> None:
    """Every prediction that is possible at its start leads to the same finite samples on this path."""
    sampler, path = make(component), build("path", name)
    exact, times = law().estimate(path), grid(7)
    expected = sampler(exact, begin(path, 1), times, path, draws())
    require(expected.shape == (NUM, D), f"it gives {tuple(expected.shape)} on path {name}.")
    require(expected.isfinite().all(), f"from pure noise it is not finite on path {name}.")
    clean, pure = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for other, prediction in registered("prediction"):
        at_clean = prediction.pair(path, clean)[1]
        if 1 in getattr(sampler, "nodes", ()) and not at_clean.isfinite():
            continue  # a slope at clean data that this prediction cannot tell: the last step is another one
        solved = 1e-6 <= prediction.determinant(path, pure).abs() < float("inf")
        high = 1.0 if solved and amplification(path, 1.0) < 1e3 else 0.98
        x, times = begin(path, high), grid(7, high)
        wanted = expected if high == 1 else sampler(exact, x, times, path, draws())
        grown = amplification(path, high)  # adaptive steps differ by rounding, too
        near = max(1e-9, 1e-13 * grown) if sampler.evaluations else min(1e-8, 1e-9 * grown)
        off = apart(sampler(through(exact, prediction, path), x, times, path, draws()), wanted, near, near)
        require(off <= 0, f"behind {other} prediction it ends elsewhere by {off:.3g} on path {name}.")


def amplification(path: Path, t: float) -> float:
    """By how much rounding can grow in a method that extrapolates noise from t on: x0 = (x - sigma noise) / alpha.

    2e4 at the end of `ddpm_cosine`. Where alpha is 0 no method divides by it.
    """
    alpha = path.alpha(torch.as_tensor(t, dtype=torch.float64)).item()
    return 1 / alpha if alpha else 1.0


def float32_follows_on(component: Component, name: str) -> None:
    """In float32 it ends near where it does in float64 on this path."""
    sampler, path = make(component), build("path", name)
    high = 1.0 if amplification(path, 1.0) < 1e3 else 0.98
    exact, x = law().estimate(path), begin(path, high)

    def rounded(x: Tensor, t: Tensor) -> Estimate:
        return Estimate(*(e.float() for e in exact(x.double(), t)))

    single = sampler(rounded, x.float(), grid(7, high), path, Doubled(draws()))
    double = sampler(exact, x, grid(7, high), path, Doubled(draws()))
    require(single.dtype == torch.float32, f"from float32 it gives {single.dtype}.")
    near = 2e-4 if sampler.evaluations else 5e-3  # adaptive steps differ in float32, each as good as rtol promises
    near = max(near, 1e-6 * amplification(path, high))
    off = apart(single.double(), double, near * path.norm(ONE).item())
    require(off <= 0, f"they are {off:.3g} further apart than rounding on path {name}.")


class Doubled:
    """The same normal numbers whatever the dtype asked."""

    def __init__(self, random: Random):
        self.random = random

    def normal(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """Those of float64."""
        return self.random.normal(shape, torch.float64).to(dtype)


def finds_the_point_on(component: Component, name: str, steps: int, near: float, spacing: str = "uniform") -> None:
    """With a perfect estimate of a single data point it ends on it, on this path."""
    sampler, path = make(component), build("path", name)
    exact = Mixture(ONE[None], POINT[None], torch.zeros(1, D, D, dtype=torch.float64)).estimate(path)
    for t in (0.9, 0.2):
        times = build("spacing", spacing)(steps, path, (0.0, t))
        out = sampler(exact, begin(path, t), times, path, draws())
        off = apart(out, POINT.expand(NUM, D), near)
        require(off <= 0, f"{steps} steps from {t} end {off + near:.3g} away on path {name}.")


def one_step_does(sampler: Sampler, name: str) -> bool:
    """Whether one step to clean data finds a single point on this path."""
    return sampler.lands or name in STRAIGHT


def reaches_the_law_on(component: Component, name: str, num: int = 2000) -> None:
    """100 steps from exact noise give the data's mean, covariance and sliced Wasserstein distance, on this path."""
    far = build("path", name).norm(ONE) > 2  # equal steps in t leave out the small noise of `ve`
    for what, off, allowed in misses(component, name, 100, "karras" if far else "uniform", num):
        require(off < allowed, f"the {what} is off by {off:.3g} on path {name}.")


def tends_to_the_law_on(component: Component, name: str, num: int = 2000) -> None:
    """So do 100, 400 or 1,600 steps of equal ratios of noise, where equal steps in t would leave most noise to one."""
    for steps in (100, 400, 1600):
        missed = [(what, off) for what, off, allowed in misses(component, name, steps, "logsnr", num) if off >= allowed]
        if not missed:
            return
    require(False, f"in 1,600 steps the {missed[0][0]} is off by {missed[0][1]:.3g} on path {name}.")


def misses(component: Component, name: str, steps: int, spacing: str, num: int) -> tuple[tuple[str, float, float], ...]:
    """By how much samples miss the data's law, and by how much they may: (what, off, allowed)."""
    path, mixture = build("path", name), law(2)
    exactly = {"rtol": 1e-5} if "rtol" in component.settings else {}  # of adaptive steps, whose number is no setting
    sampler = component.build({**component.tiny, "steps": steps, "spacing": spacing, **exactly})
    noise = torch.randn(num, 2, generator=generator(3, "start"), dtype=torch.float64)
    x = path.point(mixture.sample(num, seed=5), noise, torch.ones(num, dtype=torch.float64))
    times = sampler.spacing(steps, path, (0.0, 1.0))
    out = sampler(mixture.estimate(path), x, times, path, Bulk(generator(4, "fresh")))
    mean = (out.mean(0) - mixture.mean).abs().max().item()
    covariance = (out.T.cov() - mixture.covariance).abs().max().item()  # of variances up to 1.6
    distance = sliced_wasserstein(out, mixture.sample(num, seed=6))  # two true draws: 0.03 to 0.09
    return (
        ("mean", mean, 4 / num**0.5),
        ("covariance", covariance, 0.15),
        ("sliced Wasserstein distance", distance, 0.12),
    )


class Bulk:
    """Fresh noise for many rows at once."""

    def __init__(self, g: torch.Generator):
        self.g = g

    def normal(self, shape: Any, dtype: torch.dtype) -> Tensor:
        """N(0,1)."""
        return torch.randn(shape, generator=self.g, dtype=dtype)


def sliced_wasserstein(a: Tensor, b: Tensor) -> float:
    """The largest 1-Wasserstein distance over 32 directions of the plane."""
    angle = torch.arange(32, dtype=torch.float64) * torch.pi / 32
    directions = torch.stack([angle.cos(), angle.sin()])
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean(0).max().item()


def on_each(run: Callable[..., None], component: Component, names: tuple[str, ...], *more: Any) -> None:
    """One after the other."""
    for name in names:
        run(component, name, *more)


def every_prediction_leads_alike(component: Component) -> None:
    """From pure noise every prediction leads to the same finite samples: a sampler reads `Estimate(x0, noise)` and
    nothing else, so what the network is trained to predict changes no step."""
    on_each(needs_no_prediction_on, component, FEW)


def float32_follows_float64(component: Component) -> None:
    """In float32 it ends near where it does in float64: coefficients are computed in float64 and differences of nearly
    equal numbers (1 - alpha^2, expm1) with care."""
    on_each(float32_follows_on, component, FEW)


def reaches_the_point(component: Component) -> None:
    """With a perfect estimate of a single data point, sampling ends on it: in one step where it `lands`, and on
    straight paths. If it does not, the last step does not arrive at t = 0, or a formula is wrong."""
    sampler = make(component)
    on_each(finds_the_point_on, component, tuple(n for n in FEW if one_step_does(sampler, n)), 1, 1e-9)


def many_steps_reach_the_point(component: Component) -> None:
    """A method that follows dx/dt finds a single data point on curved paths in many steps."""
    curved = tuple(n for n in TWO if not one_step_does(make(component), n))
    if not curved:
        raise Beside("one step does")
    on_each(finds_the_point_on, component, curved, 400, 0.05)


def reaches_the_data(component: Component) -> None:
    """With the perfect network, 2,000 samples of 100 steps have the mean, the covariance and the shape of the data: a
    wrong coefficient of fresh noise shows in the variance."""
    if not component.target.spreads:
        raise Beside("not a sampler for denoisers")
    on_each(reaches_the_law_on, component, TWO)


def counts_its_evaluations(component: Component) -> None:
    """`evaluations` is how often the network is asked, each time with one float64 time per sample: reports and
    equal-cost comparisons rely on it. None says that only the run can tell."""
    sampler, path, calls = make(component), build("path", "linear"), []
    exact, times = law().estimate(path), sampler.spacing(sampler.steps, path, (0.0, 1.0))

    def counted(x: Tensor, t: Tensor) -> Estimate:
        calls.append(t)
        return exact(x, t)

    sampler(counted, begin(path, 1), times, path, draws())
    promised = sampler.evaluations in (len(calls), None)
    require(promised, f"{len(calls)} calls, `evaluations` says {sampler.evaluations}.")
    fits = all(t.shape == (NUM,) and t.dtype == torch.float64 for t in calls)
    require(fits, "the network is not asked with one float64 time per sample.")


def takes_any_times(component: Component) -> None:
    """One step, repeated times and steps beyond clean are finite, and a step of no length changes nothing: 0/0 in a
    multistep formula shows here."""
    for name in FEW:
        sampler, path = make(component), build("path", name)
        exact = law().estimate(path)
        for times in ([1, 0], [1, 1, 0.5, 0.5, 0], [1, 0.5, 0, 0], [0.7, 0.7]):
            x = begin(path, times[0])
            out = sampler(exact, x, torch.tensor(times, dtype=torch.float64), path, draws())
            require(out.isfinite().all(), f"at times {times} it is not finite on path {name}.")
            still = times[0] != times[-1] or apart(out, x, 1e-8, 1e-12) <= 0
            require(still, f"a step of no length moves x on path {name}.")


def samples_keep_apart(component: Component) -> None:
    """Sample i is the same whatever the batch, comes again, and throws its own dice only (`random`, never a global
    generator)."""
    sampler, path, num = make(component), build("path", "cosine"), 8
    x, times, exact = begin(path, 1, num), grid(5), law().estimate(path)
    with watched_dice():
        many = sampler(exact, x, times, path, Random(2, "s", rows=range(num)))
        again = sampler(exact, x, times, path, Random(2, "s", rows=range(num)))
        single = [sampler(exact, x[i : i + 1], times, path, Random(2, "s", rows=[i])) for i in range(num)]
    off = apart(torch.cat(single), many, 1e-13, 1e-12)
    require(off <= 0, f"a sample differs by {off:.3g} alone and in a batch of eight.")
    require(torch.equal(many, again), "the same run comes out otherwise a second time.")


def takes_path_and_spacing_by_name(component: Component) -> None:
    """`path` and `spacing` are settings that are components (parts={"path": "path", "spacing": "spacing"}), and without
    a path it samples along that of training."""
    named = {"path": {"name": "vp", "beta_max": 10.0}, "spacing": {"name": "karras", "rho": 5.0}}
    built = component.build(named)
    require(built.path.beta_max == 10.0 and built.spacing.rho == 5.0, "their settings do not arrive.")
    require(make(component).path is None, "it has a path of its own.")


CHECKS = (every_prediction_leads_alike, float32_follows_float64, reaches_the_point, many_steps_reach_the_point,
          reaches_the_data, counts_its_evaluations, takes_any_times, samples_keep_apart,
          takes_path_and_spacing_by_name)  # fmt: skip
