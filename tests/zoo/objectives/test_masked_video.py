"""Masked video: which frames are known, and a loss that is exactly that of the others."""

import pytest
import torch

import zoo  # noqa: F401
from vidiff.random import Random
from vidiff.registry import build
from vidiff.types import Cond, Grid, Origin

F64 = torch.float64
SHAPE = (3, 5, 4, 6)  # c t h w
MODES = ("prefix", "suffix", "ends", "random", "none")


def objective(**settings):
    return build("objective", {"name": "masked_video", **settings})


def only(mode, **settings):
    return objective(**{name: float(name == mode) for name in MODES}, **settings)


def masks(made, num=3000, frames=5, seed=3):
    return made.draw(Random(seed, "mask", rows=range(num)), frames)


def told(known):
    return Cond(origin=Origin({"known": known}, torch.zeros(len(known), dtype=torch.bool)))


def data(num=2, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(num, *SHAPE, generator=g, dtype=F64)


def test_every_mode_knows_what_it_says():
    kinds = {mode: {tuple(row.int().tolist()) for row in masks(only(mode))} for mode in MODES}
    assert kinds["prefix"] == {(1, 0, 0, 0, 0), (1, 1, 0, 0, 0), (1, 1, 1, 0, 0), (1, 1, 1, 1, 0)}
    assert kinds["suffix"] == {tuple(reversed(row)) for row in kinds["prefix"]}
    between = {(1,) * a + (0,) * (5 - a - b) + (1,) * b for a in range(1, 4) for b in range(1, 5 - a)}
    assert kinds["ends"] == between
    assert kinds["none"] == {(0, 0, 0, 0, 0)}
    assert len(kinds["random"]) == 2**5 - 1  # all but everything known


def test_prefixes_are_equally_long_and_modes_have_their_shares():
    lengths = masks(only("prefix")).sum(1).bincount(minlength=6)[1:5] / 3000
    assert ((lengths - 0.25).abs() < 0.04).all()
    known = masks(objective(prefix=3.0, suffix=0.0, ends=0.0, random=0.0, none=1.0)).any(1)
    assert abs(known.double().mean() - 0.75) < 0.04


@pytest.mark.parametrize("frames", [2, 3, 7])
def test_one_frame_at_least_is_unknown(frames):
    for mode in MODES:
        if frames > 2 or mode != "ends":
            assert not masks(only(mode), 500, frames).all(1).any(), mode


def test_a_row_draws_its_own_mask():
    whole = masks(objective(), 6)
    single = [objective().draw(Random(3, "mask", rows=[i]), 5) for i in range(6)]
    assert torch.equal(torch.cat(single), whole)


@pytest.mark.parametrize("path", ["linear", "vp", "ve", "cosine"])
def test_the_loss_is_the_mean_over_unknown_elements_and_nothing_else(path):
    """RELIABILITY: known frames may be as wrong as they like, in value and in gradient."""
    made = objective(path=path, prediction="v", weighting="min_snr")
    x0, noise = data(), data(seed=2)
    known = torch.tensor([[1, 1, 0, 0, 1], [0, 0, 0, 1, 0]], dtype=torch.bool)
    t = torch.tensor([0.3, 0.8], dtype=F64)
    answer = data(seed=3).requires_grad_()
    out = made.loss_of_unknown(lambda x, label, cond: answer, x0, noise, t, Cond(), known)
    target = made.prediction.target(made.path, x0, noise, t)
    weight = made.weighting(made.path, made.prediction, t)
    unknown = ~known[:, None, :, None, None].expand_as(x0)
    errors = [((answer - target)[i][unknown[i]] ** 2) for i in range(2)]
    assert [e.numel() for e in errors] == [2 * 72, 4 * 72]
    expected = torch.stack([weight[i] * errors[i].mean() for i in range(2)]).mean()
    assert torch.allclose(out["loss"], expected, rtol=1e-12)
    assert torch.allclose(out["mse"], torch.stack([e.mean() for e in errors]), rtol=1e-12)
    assert torch.allclose(out["time"], t)
    out["loss"].backward()
    assert (answer.grad[~unknown] == 0).all() and (answer.grad[unknown] != 0).all()


def test_known_frames_enter_clean_at_time_0_and_the_others_as_ever():
    made, x0, asked = objective(), data(), []
    known = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 1, 0]], dtype=torch.bool)
    net = lambda x, label, cond: asked.append((x, label)) or torch.zeros_like(x)  # noqa: E731
    out = made.loss(net, x0, told(known), Random(1, "train", rows=[0, 1]))
    x, label = asked[0]
    where = known[:, None, :, None, None].expand_as(x)
    assert torch.equal(x[where], x0[where]) and (label[known] == 0).all()
    assert torch.allclose(label[~known], out["time"].repeat_interleave((~known).sum(1)))
    assert (x[~where] != x0[~where]).all()
    assert made.framewise


def test_as_channels_all_frames_are_noised_and_the_conditioner_shows_the_known_ones():
    made, x0, asked = objective(route="channels"), data(), []
    known = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 1, 0]], dtype=torch.bool)
    net = lambda x, label, cond: asked.append((x, label)) or torch.zeros_like(x)  # noqa: E731
    made.loss(net, x0, told(known), Random(1, "train", rows=[0, 1]))
    x, label = asked[0]
    assert (x != x0).all() and label.unique().numel() == 2 and not made.framewise
    frames = build("conditioner", {"name": "frames", "frames": [0]}, width=8, grid=Grid(*SHAPE))
    channels = frames({"latent": x0, "known": known}, torch.tensor([False, False])).channels
    assert torch.equal(channels[:, -1, :, 0, 0].bool(), known)
    made.check(None, frames.reads)
    with pytest.raises(ValueError, match="conditioner: frames"):
        made.check(None, frozenset({"label"}))


@pytest.mark.parametrize(
    ("settings", "grid", "words"),
    [
        (dict.fromkeys(MODES, 0.0), Grid(3, 5, 4, 6), "all 0"),
        ({}, Grid(3, 2, 4, 6), "2 frames, masks need 3"),
        ({"ends": 0.0}, Grid(3, 1, 4, 6), "1 frames, masks need 2"),
    ],
)
def test_masks_that_cannot_be_are_refused(settings, grid, words):
    with pytest.raises(ValueError, match=words):
        build("objective", {"name": "masked_video", **settings}, grid=grid)
