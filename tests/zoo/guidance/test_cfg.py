"""Classifier-free guidance."""

import pytest
import torch

import zoo.guidance
import zoo.objectives  # noqa: F401
from tests.oracle import gaussian, three
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.guidance import Branch, Given
from vidiff.registry import PATHS, PREDICTIONS, build
from vidiff.types import Cond

F64 = torch.float64
COND, UNCOND = Branch(Cond(vector=torch.ones(5, 2))), Branch(Cond(vector=torch.zeros(5, 2)))
GIVEN = Given(COND, UNCOND)
T = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.95], dtype=F64)


def evaluator(path, seen=None):
    """The class is a Gaussian, without the class it is a mixture."""
    with_it, without = gaussian([0.5, -0.2, 1.0], [0.3, 0.1, 0.8]).estimate(path), three(3).estimate(path)

    def evaluate(x, t, conds):
        if seen is not None:
            seen.append([c is COND for c in conds])
        return [(with_it if c is COND else without)(x, t) for c in conds]

    return evaluate


@pytest.mark.parametrize(("scale", "index"), [(1.0, 0), (0.0, 1)])
def test_scales_one_and_zero_are_one_branch_in_bits_and_cost_one_evaluation(scale, index):
    path, x, seen = build("path", "linear"), three(3).sample(5, 1), []
    found = build("guidance", {"name": "cfg", "scale": scale})(evaluator(path, seen), GIVEN)(x, T)
    expected = evaluator(path)(x, T, [COND, UNCOND])[index]
    assert all(torch.equal(a, b) for a, b in zip(found, expected)) and seen == [[index == 0]]


def test_scale_one_equals_no_guidance_in_bits():
    path, x = build("path", "linear"), three(3).sample(5, 1)
    cfg, none = (build("guidance", g)(evaluator(path), GIVEN)(x, T) for g in ({"name": "cfg", "scale": 1.0}, "none"))
    assert all(torch.equal(a, b) for a, b in zip(cfg, none))
    assert build("guidance", {"name": "cfg", "scale": 1.0}).needs_uncond is False
    assert build("guidance", "cfg").needs_uncond is True


@pytest.mark.parametrize("path", ["linear", "cosine", "ve"])
def test_guiding_is_the_same_in_the_space_of_every_prediction(path):
    path, x = PATHS[path].build(), three(3).sample(5, 1)
    found = build("guidance", {"name": "cfg", "scale": 3.5})(evaluator(path), GIVEN)(x, T)
    cond, uncond = evaluator(path)(x, T, [COND, UNCOND])
    for prediction in (p.build() for p in PREDICTIONS):
        y_cond, y_uncond = prediction.ask(path, cond, T), prediction.ask(path, uncond, T)
        guided = prediction.solve(path, x, y_uncond + 3.5 * (y_cond - y_uncond), T)
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, guided)), type(prediction)


def test_every_channel_is_guided():
    shape = (2, 7, 3, 4, 5)
    cond, uncond = (
        Estimate(*torch.randn(2, *shape, generator=torch.Generator().manual_seed(s)).unbind(0)) for s in (1, 2)
    )
    found = build("guidance", {"name": "cfg", "scale": 4.0})(lambda x, t, conds: [cond, uncond], GIVEN)(None, None)
    for guided, c, u in zip(found, cond, uncond):
        assert torch.allclose(guided, u + 4 * (c - u), atol=1e-5)
        assert ((guided - c).abs().amax((0, 2, 3, 4)) > 1).all()


def test_swapping_the_conditions_swaps_the_sign():
    """A negative prompt: (1 + s) one way is -s the other."""
    path, x = build("path", "linear"), three(3).sample(5, 1)
    cfg = build("guidance", {"name": "cfg", "scale": 3.0})
    c, u = evaluator(path)(x, T, [COND, UNCOND])
    swapped = cfg(lambda x, t, conds: [u, c], GIVEN)(x, T)
    assert torch.allclose(swapped.x0, c.x0 + 3 * (u.x0 - c.x0))
