"""The densities of single `times`."""

import math

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.random import Random
from vidiff.registry import build
from vidiff.types import Grid

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


def test_mode_prefers_the_middle_or_the_ends():
    """The published formula, and its density by inversion on a fine grid."""
    for scale in (1.29, -0.9, 0.0):
        v = torch.linspace(0, 1, 400_001, dtype=F64)
        t = 1 - v - scale * (torch.cos(math.pi / 2 * v) ** 2 - 1 + v)  # falls in v
        law = lambda x, t=t, v=v: 1 - v[(t.numel() - torch.searchsorted(t.flip(0), x)).clamp(0, 400_000)]  # noqa: E731
        assert follows(draws({"name": "mode", "scale": scale}), law)


def test_cosmap_has_the_noise_levels_of_uniform_times_on_gvp():
    gvp = build("path", "gvp")
    assert follows(draws("cosmap"), lambda t: gvp.time(build("path", "linear").logsnr(t)))


def test_noise_levels_of_k_diffusion_and_the_ve_sde():
    level = lambda t: -build("path", "ve").logsnr(t) / 2  # noqa: E731
    low, high = math.log(0.02), math.log(60.0)
    uniform = {"name": "loguniform_sigma", "sigma_min": 0.02, "sigma_max": 60.0}
    assert follows(draws(uniform, "ve"), lambda t: (level(t) - low) / (high - low))

    def logistic(t):
        return torch.sigmoid((level(t) - 0.3) / 0.7)

    ends = [torch.sigmoid((torch.tensor(math.log(s), dtype=F64) - 0.3) / 0.7) for s in (0.01, 40.0)]
    cut = {"name": "log_logistic_sigma", "mean": 0.3, "scale": 0.7, "sigma_min": 0.01, "sigma_max": 40.0}
    assert follows(draws(cut, "ve"), lambda t: (logistic(t) - ends[0]) / (ends[1] - ends[0]))
    angles = [math.atan(s / 0.5) for s in (0.01, 40.0)]
    cauchy = {"name": "v_diffusion_sigma", "sigma_data": 0.5, "sigma_min": 0.01, "sigma_max": 40.0}
    law = lambda t: (torch.atan(level(t).exp() / 0.5) - angles[0]) / (angles[1] - angles[0])  # noqa: E731
    assert follows(draws(cauchy, "ve"), law)


def test_without_a_change_of_size_the_interpolated_cosine_is_v_diffusion():
    u, path = torch.linspace(0.01, 0.99, 21, dtype=F64), build("path", "ve")
    same = {"name": "cosine_interpolated_sigma", "size": 48.0, "noise_low": 48.0, "noise_high": 48.0}
    found, plain = (build("times", n).quantile(u, path, (0.0, 1.0)) for n in (same, "v_diffusion_sigma"))
    assert torch.allclose(found, plain, rtol=1e-9)
    # half the size of noise at both ends: a quarter of the SNR everywhere
    half = build("times", {**same, "noise_low": 24.0, "noise_high": 24.0}).quantile(u[4:-4], path, (0.0, 1.0))
    assert torch.allclose(
        path.logsnr(plain[4:-4]) - path.logsnr(half), torch.tensor(2 * math.log(2.0), dtype=F64), atol=0.05
    )


@pytest.mark.parametrize(
    "name", ["loguniform_sigma", "log_logistic_sigma", "v_diffusion_sigma", "cosine_interpolated_sigma"]
)
def test_levels_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match="sigma_min 3 must be below sigma_max 2"):
        build("times", {"name": name, "sigma_min": 3.0, "sigma_max": 2.0})


def test_shifted_by_grid_multiplies_noise_levels_by_the_root_of_the_cells():
    u, path = torch.linspace(0.05, 0.95, 7, dtype=F64), build("path", "linear")
    for by, cells in {"tokens": 5 * 6 * 7, "frames": 5, "resolution": 42}.items():
        node = {"name": "shifted_by_grid", "by": by, "reference": 10.0, "factor": 1.5}
        t = build("times", node).on(Grid(3, 5, 6, 7)).quantile(u, path, (0.0, 1.0))
        assert torch.allclose(t / (1 - t), 1.5 * (cells / 10) ** 0.5 * u / (1 - u))
    reference = build("times", {"name": "shifted_by_grid", "reference": 210.0})
    assert torch.allclose(reference.on(Grid(3, 5, 6, 7)).quantile(u, path, (0.0, 1.0)), u)


@pytest.mark.parametrize("outer", ["stratified", "per_frame", {"name": "shifted", "factor": 1.0}])
def test_densities_of_densities_pass_the_grid_on(outer):
    node = {"name": outer} if isinstance(outer, str) else dict(outer)
    node["times"] = {"name": "shifted_by_grid", "by": "frames", "reference": 1.0, "times": "logit_normal"}
    u, path = torch.linspace(0.05, 0.95, 7, dtype=F64), build("path", "linear")
    t = build("times", node).on(Grid(3, 4, 5, 6)).quantile(u, path, (0.0, 1.0))
    plain = build("times", "logit_normal").quantile(u, path, (0.0, 1.0))
    assert torch.allclose(t / (1 - t), 2 * plain / (1 - plain))


def test_training_draws_for_the_grid_of_each_batch():
    o = build(
        "objective", {"name": "rectified_flow", "times": {"name": "shifted_by_grid", "reference": 1.0, "power": 1.0}}
    )
    near, far = (o.draw_times(Random(5, "t", rows=range(400)), torch.zeros(400, 1, *s)) for s in ((1, 1, 1), (2, 3, 4)))
    assert torch.allclose(far / (1 - far), 24 * near / (1 - near))


@pytest.mark.parametrize(
    "node",
    [
        {"name": "shifted", "factor": 2.0, "times": "stratified"},
        {"name": "shifted_by_grid", "reference": 5.0, "times": {"name": "shifted", "times": "stratified"}},
        {"name": "per_frame", "times": "stratified"},
        {"name": "stratified", "times": {"name": "shifted", "times": "per_frame"}},
    ],
)
def test_strata_and_times_per_frame_last_through_densities_of_densities(node):
    """On every rank a draw in its slice, in each frame by itself; the frames of a clip know nothing of each other."""
    times, path, whole = build("times", node).on(Grid(3, 4, 2, 2)), build("path", "linear"), (0.0, 1.0)
    frames = "per_frame" in str(node)
    edges = times.quantile(torch.arange(1, 24, dtype=F64) / 24, path, whole)
    orders = []
    for step in range(4):
        parts = [
            times.draw(Random(1, "t", step, rows=range(first, first + 8), first=64, total=24), path, whole, 4)
            for first in (64, 72, 80)
        ]
        t = torch.cat(parts)
        assert times.framewise == frames and t.shape == ((24, 4) if frames else (24,))
        for column in t.reshape(24, -1).T:
            slices = torch.searchsorted(edges, column.contiguous())
            assert slices.sort().values.tolist() == list(range(24))
            orders.append(tuple(slices.tolist()))
    assert len(set(orders)) == len(orders)


def test_diffusion_forcing_keeps_strata_and_takes_any_density_per_frame():
    for node in ("stratified", {"name": "stratified", "times": "per_frame"}):
        t = build("objective", {"name": "diffusion_forcing", "times": node}).draw_times(
            Random(5, "t", rows=range(30)), torch.zeros(30, 1, 4, 2, 2)
        )
        assert all((30 * column).long().unique().numel() == 30 for column in t.T)
    with pytest.raises(ValueError, match="one length for all frames"):
        build("objective", {"name": "shortcut", "times": {"name": "shifted", "times": "per_frame"}})
