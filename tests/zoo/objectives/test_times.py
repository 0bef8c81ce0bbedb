"""The densities of single `times`."""

import torch

import zoo.objectives  # noqa: F401
from vidiff.random import Random
from vidiff.registry import build

F64 = torch.float64
NUM = 20_000


def draws(node, path="linear", interval=(0.0, 1.0)):
    return build("times", node).draw(Random(5, "t", rows=range(NUM)), build("path", path), interval, frames=3)


def follows(sample, cdf):
    """Kolmogorov-Smirnov, p > 1e-3."""
    law = cdf(sample.sort().values)
    steps = torch.arange(NUM + 1, dtype=F64) / NUM
    return torch.maximum((law - steps[:-1]).abs(), (law - steps[1:]).abs()).max() * NUM**0.5 < 1.95


def normal_cdf(z):
    return torch.special.ndtr(z)


def test_uniform():
    assert follows(draws("uniform"), lambda t: t)
    assert follows(draws("uniform", interval=(0.2, 0.6)), lambda t: (t - 0.2) / 0.4)
    assert not follows(draws("uniform"), lambda t: t**1.05)


def test_logit_normal():
    assert follows(
        draws({"name": "logit_normal", "mean": 0.5, "std": 1.3}), lambda t: normal_cdf((t.logit() - 0.5) / 1.3)
    )


def test_lognormal_sigma_on_any_path():
    for path in ("ve", "linear", "cosine"):
        level = lambda t, path=path: -build("path", path).logsnr(t) / 2  # noqa: E731
        assert follows(draws("lognormal_sigma", path), lambda t, level=level: normal_cdf((level(t) + 1.2) / 1.2))
    ends = draws({"name": "lognormal_sigma", "mean": 0.0, "std": 5.0}, "linear", (0.3, 0.6))
    assert (ends == 0.3).any() and (ends == 0.6).any()


def test_shifted_multiplies_the_noise_level_of_the_linear_path():
    assert follows(draws({"name": "shifted", "factor": 3.0}), lambda t: t / (3 - 2 * t))
    u = torch.linspace(0.01, 0.99, 9, dtype=F64)
    t = build("times", {"name": "shifted", "factor": 3.0}).quantile(u, build("path", "linear"), (0.0, 1.0))
    assert torch.allclose(t / (1 - t), 3 * u / (1 - u))
    nested = {"name": "shifted", "factor": 2.0, "times": {"name": "logit_normal", "mean": 0.3}}
    assert follows(draws(nested), lambda t: normal_cdf((t / (2 - t)).logit() - 0.3))


def test_stratified_puts_one_draw_in_every_slice_of_the_global_batch():
    times, path = build("times", "stratified"), build("path", "linear")
    for step in range(5):
        parts = [
            times.draw(Random(1, "t", step, rows=range(first, first + 8), first=64, total=24), path, (0.0, 1.0), 3)
            for first in (64, 72, 80)
        ]
        slices = (24 * torch.cat(parts)).long()
        assert slices.sort().values.tolist() == list(range(24))
        assert slices.tolist() != sorted(slices.tolist())


def test_stratified_is_unbiased_and_steadier():
    path, plain, even = build("path", "linear"), build("times", "uniform"), build("times", "stratified")
    means = {
        name: torch.stack([t.draw(Random(2, name, s, rows=range(16)), path, (0.0, 1.0), 3).mean() for s in range(400)])
        for name, t in (("plain", plain), ("even", even))
    }
    assert abs(means["even"].mean() - 0.5) < 5 * means["even"].std() / 20
    assert means["even"].std() < means["plain"].std() / 10


def test_stratified_of_another_density():
    node = {"name": "stratified", "times": {"name": "logit_normal", "mean": 0.5}}
    assert follows(draws(node), lambda t: normal_cdf(t.logit() - 0.5))
