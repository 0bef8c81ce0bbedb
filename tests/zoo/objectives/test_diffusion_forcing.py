"""Diffusion forcing: a time for every frame, and what it weighs."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.random import Random
from vidiff.registry import build
from vidiff.types import Cond

F64 = torch.float64
NUM, FRAMES = 4000, 3


class Remembering:
    """Answers zero and remembers which time it was told."""

    def __call__(self, x, label, cond):
        self.label = label
        return torch.zeros_like(x)


def random(num=NUM):
    return Random(5, "t", rows=range(num))


def test_times_of_frames_are_independent_and_of_the_density_asked_for():
    path = build("path", "linear")
    t = build("times", {"name": "per_frame", "times": {"name": "logit_normal", "mean": 0.4}}).draw(
        random(), path, (0.0, 1.0), frames=FRAMES
    )
    assert t.shape == (NUM, FRAMES) and t.dtype == F64
    z = t.logit() - 0.4
    assert (z.mean(0).abs() < 4 / NUM**0.5).all() and ((z.std(0) - 1).abs() < 4 / (2 * NUM) ** 0.5).all()
    assert ((z.T.corrcoef() - torch.eye(FRAMES)).abs() < 4 / NUM**0.5).all()


def test_the_objective_draws_per_frame_whatever_density_is_named():
    for times in ("uniform", {"name": "shifted", "factor": 2.0}, {"name": "per_frame", "times": "uniform"}):
        objective = build("objective", {"name": "diffusion_forcing", "times": times})
        net = Remembering()
        objective.loss(net, torch.zeros(4, 2, FRAMES, 5, 6, dtype=F64), Cond(), random(4))
        assert objective.framewise and net.label.shape == (4, FRAMES) and len(net.label.unique()) == 12
    assert not build("objective", "v_prediction").framewise
    assert build("objective", {"name": "v_prediction", "times": "per_frame"}).framewise


def test_the_loss_is_the_mean_over_frames_of_what_each_would_have_alone():
    """A network that answers zero: frame f has weight(t_f) E|v|^2 of its own time, whatever its neighbours'."""
    objective = build("objective", "diffusion_forcing")
    g = torch.Generator().manual_seed(2)
    x0, noise = (torch.randn(2, 3, 4, 5, 6, generator=g, dtype=F64) for _ in range(2))
    t = torch.rand(2, 4, generator=g, dtype=F64)
    net = lambda x, label, cond: torch.zeros_like(x)  # noqa: E731
    whole = objective.loss_at(net, x0, noise, t, Cond())["loss"]
    alone = [objective.loss_at(net, x0[:, :, f : f + 1], noise[:, :, f : f + 1], t[:, f], Cond()) for f in range(4)]
    assert torch.allclose(whole, torch.stack([part["loss"] for part in alone]).mean(), rtol=1e-12)


def test_fused_snr_of_one_time_per_clip_is_min_snr():
    path, prediction = build("path", "cosine"), build("prediction", "v")
    t = torch.tensor([0.1, 0.5, 0.93], dtype=F64)
    fused, plain = build("weighting", "fused_snr"), build("weighting", "min_snr")
    assert torch.equal(fused(path, prediction, t), plain(path, prediction, t))
    assert torch.allclose(fused(path, prediction, t[:, None]), plain(path, prediction, t[:, None]), rtol=1e-9)


def test_a_noisy_frame_after_clean_ones_weighs_more_than_alone():
    path, prediction = build("path", "cosine"), build("prediction", "x0")
    fused = build("weighting", {"name": "fused_snr", "decay": 0.5})
    clean_before = fused(path, prediction, torch.tensor([[0.05, 0.05, 0.9]], dtype=F64))[0, 2]
    noisy_before = fused(path, prediction, torch.tensor([[0.95, 0.95, 0.9]], dtype=F64))[0, 2]
    # C = 1 after clean frames: weight gamma (1 - (1 - d)(1 - M)), M = SNR / gamma
    snr = path.logsnr(torch.tensor(0.9, dtype=F64)).exp()
    assert torch.allclose(clean_before, 5 * (1 - 0.5 * (1 - snr / 5)), rtol=1e-9)
    assert snr < noisy_before < 0.1 * clean_before


def test_a_decay_that_forgets_nothing_is_refused():
    with pytest.raises(ValueError, match="below 1"):
        build("weighting", {"name": "fused_snr", "decay": 1.0})
