"""All channels are guided alike: the fault of published samplers that guide three channels of four."""

import pytest
import torch

import zoo.guidance
import zoo.objectives  # noqa: F401
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.guidance import Branch, Given
from vidiff.registry import GUIDANCE, PATHS
from vidiff.types import Cond

SHAPE, F64 = (2, 6, 3, 4, 5), torch.float64
PATH = PATHS["linear"].build()
T = torch.tensor([0.5, 0.3], dtype=F64)


def draw(seed):
    return torch.randn(SHAPE, dtype=F64, generator=torch.Generator().manual_seed(seed))


def guided(name, order):
    """What is believed with the channels of everything in this order, put back in place."""
    x = draw(0)[:, order]
    alpha, sigma = (c(T)[:, None, None, None, None] for c in (PATH.alpha, PATH.sigma))

    def belief(seed):
        x0 = 1.5 * draw(seed)[:, order]
        return Estimate(x0, (x - alpha * x0) / sigma)

    weak = type("Weak", (), {"estimator": lambda self, cond, guidance=None: lambda x, t: belief(9)})()
    parts = {}
    given = Given(Branch(Cond()), Branch(Cond()), PATH, lambda which: parts.setdefault(tuple(which), Branch(Cond())))
    seeds = {given.cond: 1, given.uncond: 2}
    component = GUIDANCE[name]
    estimate = component.build(component.tiny, load=lambda run: weak)(
        lambda x, t, branches: [belief(seeds.get(b, 3 if b.disturb is None else 4)) for b in branches], given
    )
    return Estimate(*(part[:, torch.argsort(order)] for part in estimate(x, T))), belief


@pytest.mark.parametrize("name", GUIDANCE.names())
def test_the_order_of_the_channels_does_not_matter_and_each_is_guided(name):
    straight, belief = guided(name, torch.arange(6))
    for order in (torch.tensor([5, 4, 3, 2, 1, 0]), torch.tensor([2, 0, 4, 1, 5, 3])):
        other, _ = guided(name, order)
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(straight, other, strict=True))
    if name != "none":
        away = (straight.x0 - belief(1).x0).abs().amax(dim=(0, 2, 3, 4))
        assert (away > 1e-3).all(), "a channel is left as the condition has it"
