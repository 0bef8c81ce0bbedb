"""Inversion: back to the video, to the order of the sampler."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

import zoo  # noqa: F401
from tests.frames import F64
from tests.oracle import three
from tests.zoo.tasks.exact import (
    canvas,
)
from vidiff.diffusion.noise import PriorRandom
from vidiff.diffusion.task import Canvas, Known, Sampling
from vidiff.random import Random
from vidiff.registry import OBJECTIVES, SAMPLERS, build
from vidiff.types import VELOCITY, Grid


def whatever(estimate, known):
    return estimate


@pytest.mark.parametrize(("sampler", "least", "most"), [("euler", 1, 1), ("heun", 2, 3)])
@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_inversion_returns_to_the_order_of_its_sampler(sampler, least, most, path):
    """A mixture, not a Gaussian: there the way is curved. Of an even order the leading errors cancel on the way back."""
    shape, errors = (2, 3, 2, 1), []
    mixture = three(12)
    data = mixture.sample(8, seed=3).reshape(8, *shape)
    task = build("task", "inversion", canvas=Canvas(shape, Grid(*shape), build("tokenizer", "pixels")))
    for steps in (64, 128):
        made, along = build("sampler", {"name": sampler, "steps": steps}), build("path", path)
        dice = PriorRandom(None, Random(0, "s", rows=range(8)))
        times = made.spacing(steps, along, (0.0, 1.0))
        at = Sampling(made, along, times, dice, Grid(*shape), data.device, partial(whatever, mixture.estimate(along)))
        at.known = Known(data, task.cells)
        out = task(at)
        errors.append((out - data).square().mean().sqrt().item())
        told = torch.tensor(at.notes["round_trip_rmse"], dtype=F64)
        assert told.shape == (8,) and torch.allclose(told.square().mean().sqrt(), torch.tensor(errors[-1], dtype=F64))
    assert 2 ** (least - 0.25) < errors[0] / errors[1] < 2 ** (most + 0.6)


def test_inversion_refuses_samplers_that_add_noise():
    task, flow = build("task", "inversion", canvas=canvas(3)), build("objective", "rectified_flow")
    task.check(build("sampler", "heun"), flow, frozenset())
    with pytest.raises(ValueError, match="adds noise.*heun"):
        task.check(build("sampler", "ancestral"), flow, frozenset())


@pytest.mark.parametrize("name", [c.name for c in OBJECTIVES if getattr(c.target, "tells", None) != VELOCITY])
def test_what_inversion_advises_can_be_had(name):
    """A model of few steps may tell no velocity: then no sampler helps. Where one does, it is taken."""
    task, objective = build("task", "inversion", canvas=canvas(3)), SimpleNamespace(tells=OBJECTIVES[name].target.tells)
    if "velocity" in objective.tells:
        task.check(build("sampler", "heun"), objective, frozenset())
        with pytest.raises(ValueError, match="jumps .*heun"):
            task.check(build("sampler", "jump"), objective, frozenset())
        return
    for sampler in SAMPLERS.names():
        with pytest.raises(ValueError, match=r"estimates tell (end|step) only\. Use task: sdedit") as told:
            task.check(build("sampler", sampler), objective, frozenset())
        assert "heun" not in str(told.value)
    for sampler in (s for s in SAMPLERS.names() if build("sampler", s).asks & objective.tells):
        build("task", "sdedit", canvas=canvas(3)).check(build("sampler", sampler), objective, frozenset())
