"""`clipped`: around any sampler, with what that one asks of a model."""

import pytest
import torch

import zoo  # noqa: F401
from tests.oracle import three
from vidiff.diffusion.estimate import Aiming, Estimate, through
from vidiff.random import Random
from vidiff.registry import SAMPLERS, build

F64 = torch.float64
PATH = build("path", "linear")


def clipped(name, **settings):
    return build("sampler", {"name": "clipped", "sampler": name, "steps": 3, **settings})


@pytest.mark.parametrize("name", [c.name for c in SAMPLERS if c.name != "clipped"])
def test_it_asks_and_promises_what_the_sampler_within_does(name):
    inner, outer = build("sampler", name), clipped(name)
    for word in ("asks", "lands", "spreads", "framewise", "reverses", "reads_variances"):
        assert getattr(inner, word) == getattr(outer, word), word


def test_a_jump_stays_a_jump():
    """A model that is told where a step ends is told through the clipping: one step ends where it says, cut off."""
    end = torch.tensor([[0.3, -2.0, 0.1]], dtype=F64)

    def told(x, t, s):
        if s is None:
            return Estimate(torch.zeros_like(x), x)
        return through(PATH, x, t, end.expand_as(x), s)

    x = torch.tensor([[1.0, 0.5, -0.4]], dtype=F64)
    times = torch.tensor([1.0, 0.0], dtype=F64)
    drawn = clipped("jump", limit=1.0)(Aiming(told), x, times, PATH, Random(0, rows=[0]))
    assert torch.allclose(drawn, end.clamp(-1, 1))


@pytest.mark.parametrize("name", [c.name for c in SAMPLERS if c.target.framewise])
def test_frames_that_are_clean_already_do_not_stop_the_clipping_of_the_others(name):
    """Two frames, one at time 0: the other's draw is that of a video of its own with the same noise."""
    law = three(4)
    exact = law.estimate(PATH)
    x = 2 * torch.randn(2, 1, 2, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(3))

    def each(x, t):  # frames know nothing of each other
        beliefs = [exact(x[:, :, f].reshape(len(x), 4), t[:, f]) for f in range(2)]
        return Estimate(*(torch.stack([b[i].reshape(len(x), 1, 2, 2) for b in beliefs], 2) for i in range(2)))

    times = torch.tensor([[0.0, 0.9], [0.0, 0.5], [0.0, 0.2], [0.0, 0.0]], dtype=F64)
    settings = {"name": name, "eta": 0.0} if name == "ancestral" else name
    together = clipped(settings, limit=0.4)(each, x, times, PATH, Random(1, rows=range(2)))
    alone = clipped(settings, limit=0.4)(exact, x[:, :, 1].reshape(2, 4), times[:, 1], PATH, Random(1, rows=range(2)))
    assert torch.allclose(together[:, :, 1].reshape(2, 4), alone)
    assert alone.abs().max() <= 0.4 + 1e-12
