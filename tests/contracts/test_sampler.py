"""What every registered sampler promises."""

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import gaussian, three
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.sampler import start
from vidiff.random import Random, generator
from vidiff.registry import PATHS, PREDICTIONS, SAMPLERS, build

D = 3
FEW = ("linear", "cosine", "ddpm", "ve")
"""One path of each sort; every other one is for `make test-all`."""
EVERY = [p if p in FEW else pytest.param(p, marks=pytest.mark.slow) for p in PATHS.names()]
TWO = [p if p in ("linear", "cosine") else pytest.param(p, marks=pytest.mark.slow) for p in PATHS.names()]
"""For what takes a second in each cell."""
STRAIGHT = ("linear", "ve")
"""Where the way to a single data point is a straight line in t."""


@pytest.fixture(params=SAMPLERS.names())
def sampler(request):
    return SAMPLERS[request.param].build(SAMPLERS[request.param].tiny)


def draws(num=5, seed=4):
    return Random(seed, "sample", rows=range(num))


def begin(path, t, num=5, dtype=torch.float64):
    noise = torch.randn(num, D, generator=torch.Generator().manual_seed(8), dtype=torch.float64).to(dtype)
    return start(path, noise, torch.as_tensor(t, dtype=torch.float64))


def grid(steps, high=1.0, low=0.0):
    return torch.linspace(high, low, steps + 1, dtype=torch.float64)


@pytest.mark.parametrize("path", EVERY)
def test_every_valid_prediction_gives_the_same_finite_samples_from_pure_noise(sampler, path):
    path, mixture, times = PATHS[path].build(), three(D), grid(7)
    expected = sampler(mixture.estimate(path), begin(path, 1), times, path, draws())
    assert expected.shape == (5, D) and expected.isfinite().all()
    for prediction in (p.build() for p in PREDICTIONS):
        at_clean = prediction.pair(path, torch.zeros(1, dtype=torch.float64))[1]
        if 1 in getattr(sampler, "nodes", ()) and not at_clean.isfinite():
            continue  # a slope at clean data that this prediction cannot tell: the last step is another one
        d = prediction.determinant(path, torch.ones(1, dtype=torch.float64)).abs()
        high = 1.0 if 1e-6 <= d < float("inf") else 0.98
        wanted = (
            expected if high == 1 else sampler(mixture.estimate(path), begin(path, high), grid(7, high), path, draws())
        )
        found = sampler(mixture.through(prediction, path), begin(path, high), grid(7, high), path, draws())
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9), type(prediction)


@pytest.mark.parametrize("path", EVERY)
def test_float32_follows_float64(sampler, path):
    path, mixture = PATHS[path].build(), three(D)
    exact = mixture.estimate(path)
    rounded = begin(path, 1, dtype=torch.float32)
    single = sampler(
        lambda x, t: Estimate(*(e.float() for e in exact(x.double(), t))), rounded, grid(7), path, Doubled(draws())
    )
    double = sampler(exact, begin(path, 1), grid(7), path, Doubled(draws()))
    assert single.dtype == torch.float32
    near = 2e-4 if sampler.evaluations else 5e-3  # adaptive steps differ in float32, each as good as rtol 1e-5 promises
    assert torch.allclose(single.double(), double, atol=near * path.norm(torch.ones(1, dtype=torch.float64)).item())


class Doubled:
    """The same normal numbers whatever the dtype asked."""

    def __init__(self, random):
        self.random = random

    def normal(self, shape, dtype):
        return self.random.normal(shape, torch.float64).to(dtype)


def test_promised_number_of_evaluations(sampler):
    path, calls = build("path", "linear"), []
    exact = three(D).estimate(path)
    times = sampler.spacing(sampler.steps, path, (0.0, 1.0))
    sampler(lambda x, t: calls.append(t) or exact(x, t), begin(path, 1), times, path, draws())
    assert sampler.evaluations in (len(calls), None)
    assert all(t.shape == (5,) and t.dtype == torch.float64 for t in calls)


@pytest.mark.parametrize("times", [[1, 0], [1, 1, 0.5, 0.5, 0], [1, 0.5, 0, 0], [0.7, 0.7]], ids=str)
@pytest.mark.parametrize("path", ["linear", "cosine", "ddpm", "ve"])
def test_one_step_and_repeated_times_are_finite(sampler, path, times):
    path, mixture = PATHS[path].build(), three(D)
    x = begin(path, times[0])
    out = sampler(mixture.estimate(path), x, torch.tensor(times, dtype=torch.float64), path, draws())
    assert out.isfinite().all()
    if times == [0.7, 0.7]:
        assert torch.allclose(out, x, rtol=1e-12)


@pytest.mark.parametrize("path", EVERY)
def test_one_step_to_clean_finds_a_single_data_point(sampler, path):
    if not (sampler.lands or path in STRAIGHT):
        pytest.skip("a method that follows dx/dt on a curved path needs many steps: the next test")
    found_after(1, 1e-9, sampler, PATHS[path].build())


@pytest.mark.parametrize("path", TWO)
def test_many_steps_to_clean_find_a_single_data_point(sampler, path):
    if sampler.lands or path in STRAIGHT:
        pytest.skip("one step does: the test before")
    found_after(400, 0.05, sampler, PATHS[path].build())


def found_after(steps, near, sampler, path):
    point = gaussian([0.4, -1.3, 0.8], [0.0, 0.0, 0.0])
    for t in (0.9, 0.2):
        out = sampler(point.estimate(path), begin(path, t), grid(steps, t), path, draws())
        assert torch.allclose(out, point.means.expand(5, D), atol=near)


def test_a_sample_does_not_depend_on_its_batch(sampler):
    path, mixture = build("path", "cosine"), three(D)
    x, times, exact = begin(path, 1, num=8), grid(5), mixture.estimate(build("path", "cosine"))
    many = sampler(exact, x, times, path, Random(2, "s", rows=range(8)))
    single = [sampler(exact, x[i : i + 1], times, path, Random(2, "s", rows=[i])) for i in range(8)]
    assert torch.allclose(torch.cat(single), many, rtol=1e-12, atol=1e-13)
    again = sampler(exact, x, times, path, Random(2, "s", rows=range(8)))
    assert torch.equal(many, again)


@pytest.mark.parametrize("path", TWO)
def test_reaches_the_data_distribution(sampler, path, request):
    """Mean, covariance and sliced Wasserstein distance of 2,000 samples of a mixture, near those of true draws."""
    if not SAMPLERS[request.node.callspec.params["sampler"]].target.spreads:
        pytest.skip("not a sampler for denoisers")
    component, path, mixture, num = (
        SAMPLERS[request.node.callspec.params["sampler"]],
        PATHS[path].build(),
        three(2),
        2000,
    )
    exploding = path.norm(torch.ones((), dtype=torch.float64)) > 2
    sampler = component.build({**component.tiny, "steps": 100, "spacing": "karras" if exploding else "uniform"})
    g = generator(3, "start")
    noise, data = torch.randn(num, 2, generator=g, dtype=torch.float64), mixture.sample(num, seed=5)
    x = path.point(data, noise, torch.ones(num, dtype=torch.float64))
    times = sampler.spacing(100, path, (0.0, 1.0))
    out = sampler(mixture.estimate(path), x, times, path, Bulk(generator(4, "fresh")))
    assert (out.mean(0) - mixture.mean).abs().max() < 4 / num**0.5
    assert (out.T.cov() - mixture.covariance).abs().max() < 0.15  # of variances up to 1.6
    assert sliced_wasserstein(out, mixture.sample(num, seed=6)) < 0.12  # two true draws: 0.03 to 0.09


class Bulk:
    """Fresh noise for many rows at once."""

    def __init__(self, g):
        self.g = g

    def normal(self, shape, dtype):
        return torch.randn(shape, generator=self.g, dtype=dtype)


def sliced_wasserstein(a, b):
    """The largest 1-Wasserstein distance over 32 directions of the plane."""
    angle = torch.arange(32, dtype=torch.float64) * torch.pi / 32
    directions = torch.stack([angle.cos(), angle.sin()])
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean(0).max()


def test_takes_a_path_and_a_spacing_by_name(sampler, request):
    component = SAMPLERS[request.node.callspec.params["sampler"]]
    built = component.build({"path": {"name": "vp", "beta_max": 10.0}, "spacing": {"name": "karras", "rho": 5.0}})
    assert built.path.beta_max == 10.0 and built.spacing.rho == 5.0
    assert sampler.path is None
