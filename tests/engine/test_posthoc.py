"""Power-function averages against their weights in closed form, and any width out of two (EDM2, 2312.02696)."""

import math
from functools import partial

import pytest
import torch

from vidiff.engine.checkpoint import Snapshot
from vidiff.engine.posthoc import Kept, coefficients, exponent, power_decay, snapshots, synthesize
from vidiff.errors import Refused

STEPS = 400


def trajectory(step):
    """Known weights, float64, of a known path through time."""
    phase = torch.arange(6, dtype=torch.float64)
    return (step / STEPS) ** (1 + phase / 3) + 0.3 * torch.sin(phase + step / 17)


def track(sigma, until=STEPS):
    """The average as the engine tracks it."""
    gamma, average = exponent(sigma), torch.zeros(6, dtype=torch.float64)
    for step in range(1, until + 1):
        average = torch.lerp(average, trajectory(step), 1 - power_decay(step, gamma))
    return average


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_exponent_gives_the_width_back(sigma):
    g = exponent(sigma)
    assert math.isclose(math.sqrt((g + 1) / ((g + 2) ** 2 * (g + 3))), sigma, rel_tol=1e-12) and g >= 0


def test_the_decay_makes_the_profile():
    """Step s of t has the weight (s/t)^(g+1) - ((s-1)/t)^(g+1), the integral of the power function over it."""
    gamma, t = exponent(0.08), 50
    s = torch.arange(t + 1, dtype=torch.float64) / t
    expected = (s ** (gamma + 1)).diff() @ torch.stack([trajectory(k) for k in range(1, t + 1)])
    assert torch.allclose(track(0.08, t), expected, rtol=0, atol=1e-13)


def test_one_that_was_tracked_comes_back_exactly():
    steps, sigmas = [100, 100, 250, 250, 400, 400], [0.05, 0.1] * 3
    x, error = coefficients(steps, sigmas, [400, 250], [0.1, 0.05])
    expected = torch.zeros(6, 2, dtype=torch.float64)
    expected[5, 0] = expected[2, 1] = 1
    assert torch.allclose(x, expected, rtol=0, atol=1e-9) and error.max() < 1e-6


@pytest.mark.parametrize("sigma", [0.03, 0.06, 0.075, 0.09, 0.14])
def test_another_width_is_the_one_that_would_have_been_tracked(sigma):
    """40 snapshots of two widths: the weights differ by no more than the profile's error allows."""
    times = range(10, STEPS + 1, 10)
    kept = {(t, s): track(s, t) for t in times for s in (0.05, 0.1)}
    x, error = coefficients([t for t, _ in kept], [s for _, s in kept], [STEPS], [sigma])
    made, true = x[:, 0] @ torch.stack(list(kept.values())), track(sigma)
    # |sum_s (w - w*) theta| <= |p - q| |theta|, both in L2; |q|^2 = (g+1)^2 / ((2g+1) t)
    g = exponent(sigma)
    bound = error.item() * (g + 1) / math.sqrt((2 * g + 1) * STEPS)
    bound *= torch.stack([trajectory(k) for k in range(1, STEPS + 1)]).square().sum(0).sqrt().max().item()
    assert (made - true).abs().max() <= bound
    assert (made - true).abs().max() < 2e-3 < (track(0.05) - true).abs().max()


def folder(tmp_path, times=range(40, STEPS, 40)):
    for t in times:
        groups = {f"posthoc_{s}": {"w": track(s, t)} for s in (0.05, 0.1)}
        snapshots(tmp_path).save(t, Snapshot(groups, {}))
    return [
        Kept(t, s, snapshots(tmp_path).path(t), f"posthoc_{s}")
        for t in snapshots(tmp_path).steps()
        for s in (0.05, 0.1)
    ]


def test_synthesis_from_files(tmp_path):
    kept = folder(tmp_path, range(40, STEPS + 1, 40))
    assert len(kept) == 20, "no snapshot is ever deleted"
    made, error = synthesize(kept, STEPS, 0.08)
    assert torch.allclose(made["w"], track(0.08), rtol=0, atol=2e-3) and 0 < error < 0.01
    same, error = synthesize(kept, STEPS, 0.1)
    assert torch.allclose(same["w"], track(0.1), rtol=0, atol=1e-9) and error < 1e-6
    rest = {"w": torch.ones(3)}
    for average in kept:
        snapshots(tmp_path / "rest").save(average.step, Snapshot({f"posthoc_{s}": rest for s in (0.05, 0.1)}, {}))
    still = [Kept(k.step, k.sigma_rel, snapshots(tmp_path / "rest").path(k.step), k.group) for k in kept]
    assert torch.allclose(synthesize(still, STEPS, 0.07)[0]["w"], rest["w"].double(), rtol=0, atol=1e-12)


def test_what_is_out_of_reach_is_refused(tmp_path):
    kept = folder(tmp_path, [40, 200])
    with pytest.raises(Refused, match="out of reach: the 4 averages kept come no nearer than"):
        synthesize(kept, STEPS, 0.08)
    with pytest.raises(Refused, match="kept no power-function averages"):
        synthesize([], STEPS, 0.08)
    (kept[0].checkpoint / "posthoc_0.05.safetensors").write_bytes(b"x")
    with pytest.raises(Refused, match="not an intact checkpoint"):
        synthesize(kept, 200, 0.1)


def test_a_repeated_past_is_forgotten(tmp_path):
    folder(tmp_path, [40, 80, 120])
    snapshots(tmp_path).forget_after(80)
    assert snapshots(tmp_path).steps() == [40, 80]


@pytest.mark.parametrize("sigma", [0.05, 0.1])
def test_decays_rise_from_a_copy(sigma):
    decays = list(map(partial(power_decay, gamma=exponent(sigma)), range(1, 60)))
    assert decays[0] == 0 and decays == sorted(decays) and decays[-1] < 1
