"""What every registered guidance promises."""

import pytest
import torch

import zoo.guidance  # noqa: F401
from vidiff.diffusion.estimate import Estimate
from vidiff.registry import GUIDANCE
from vidiff.types import Cond

SHAPE = (2, 3, 4, 5, 6)


@pytest.fixture(params=GUIDANCE.names())
def guidance(request):
    return GUIDANCE[request.param].build(GUIDANCE[request.param].tiny)


def test_one_batched_call_per_step_and_every_channel_of_the_right_shape(guidance):
    calls, (cond, uncond) = [], (Cond(vector=torch.ones(2, 7)), Cond(vector=torch.zeros(2, 7)))

    def evaluate(x, t, conds):
        calls.append(len(conds))
        assert all(c is cond or c is uncond for c in conds)
        return [Estimate(x * (2 if c is cond else 1), x - (2 if c is cond else 1)) for c in conds]

    x, t = torch.randn(SHAPE), torch.full((2,), 0.5, dtype=torch.float64)
    estimate = guidance(evaluate, cond, uncond)(x, t)
    assert len(calls) == 1 and calls[0] == (2 if guidance.needs_uncond else 1)
    assert all(e.shape == SHAPE and e.isfinite().all() for e in estimate)


def test_when_both_beliefs_agree_guidance_changes_nothing(guidance):
    belief = Estimate(torch.randn(SHAPE, dtype=torch.float64), torch.randn(SHAPE, dtype=torch.float64))
    guided = guidance(lambda x, t, conds: [belief] * len(conds), Cond(), Cond())(belief.x0, torch.zeros(2))
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(guided, belief, strict=True))
