"""Pyramid: frames that follow one another reach the distribution of the data."""

import pytest
import torch

import zoo  # noqa: F401
from tests.zoo.tasks.exact import FRAMES, Columns, K, Many, canvas, moments, sampling, watch
from vidiff.registry import SAMPLERS, build

FRAMEWISE = [c.name for c in SAMPLERS if c.target.framewise]


@pytest.mark.parametrize("sampler", FRAMEWISE)
def test_equal_times_per_frame_are_the_ordinary_sampler_to_the_bit(sampler):
    outs = []
    for wide in (False, True):
        at = sampling(Many(), sampler, 6, pixels=4)
        elementwise = lambda x, t, path=at.path: build("prediction", "v").solve(  # noqa: E731
            path, x, torch.sin(3 * x), t
        )
        times = at.times[:, None].expand(-1, FRAMES) if wide else at.times
        outs.append(at.run(elementwise, at.start(), times))
    assert torch.equal(*outs)


def test_slope_0_is_generate_to_the_bit():
    outs = []
    for task in ("generate", {"name": "pyramid", "slope": 0}):
        outs.append(build("task", task, canvas=canvas(4))(sampling(Many(), "heun", 6, pixels=4)))
    assert torch.equal(*outs)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_pyramid_reaches_the_distribution_of_the_data(share):
    """A flow along any way through times per frame has the same ends; slope S draws one frame after the other."""
    worst = []
    for steps in (80, 160):
        task = build("task", {"name": "pyramid", "slope": int(share * steps)}, canvas=canvas(6))
        _, covariance = moments(task(sampling(Columns(1), "euler", steps)))
        worst.append((covariance - K).abs().max().item())
    assert worst[1] < 0.05 and 1.6 < worst[0] / worst[1] < 2.6


def test_a_pyramid_with_fresh_noise_reaches_it_too():
    pixels = 20_000
    task = build("task", {"name": "pyramid", "slope": 20}, canvas=canvas(pixels))
    out = task(sampling(Many(), "ancestral", 100, pixels=pixels))[0, 0, :, 0]
    assert (out.cov() - K).abs().max() < 0.05 and out.mean(1).abs().max() < 0.03


def test_the_first_frame_is_done_before_the_last_one_begins():
    asked, task = [], build("task", {"name": "pyramid", "slope": 3}, canvas=canvas(2))
    at = sampling(Many(), "euler", 4, pixels=2)
    watch(at, asked)
    task(at)
    assert len(asked) == task.evaluations(at.sampler) == 4 + 3 * (FRAMES - 1)
    times = torch.stack([t[0] for _, t in asked])
    assert (times.diff(dim=1) >= 0).all() and (times.diff(dim=0) <= 0).all()
    assert times[6].tolist() == [0.0, 0.25, 1.0, 1.0, 1.0]


def test_what_a_pyramid_and_conditioning_cannot_do_is_refused():
    forcing, masked, flow = (build("objective", o) for o in ("diffusion_forcing", "masked_video", "rectified_flow"))
    euler, heun, nothing = build("sampler", "euler"), build("sampler", "heun"), frozenset()
    pyramid = build("task", "pyramid", canvas=canvas(3))
    pyramid.check(euler, forcing, nothing)
    with pytest.raises(ValueError, match="Use sampler: euler"):
        pyramid.check(heun, forcing, nothing)
    with pytest.raises(ValueError, match="objective: diffusion_forcing"):
        pyramid.check(euler, masked, nothing)
    conditioning = build("task", {"name": "conditioning", "count": 2}, canvas=canvas(3))
    for objective, reads in ((forcing, nothing), (masked, nothing), (flow, frozenset({"latent"}))):
        conditioning.check(heun, objective, reads)
    with pytest.raises(ValueError, match="task: replacement"):
        conditioning.check(heun, flow, frozenset({"label"}))
