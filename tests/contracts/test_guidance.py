"""What every registered guidance promises."""

import pytest
import torch

import zoo.guidance
import zoo.objectives  # noqa: F401
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.guidance import Branch, Given
from vidiff.registry import GUIDANCE, PATHS
from vidiff.types import Cond

SHAPE = (2, 3, 4, 5, 6)
PATH = PATHS["linear"].build()


@pytest.fixture(params=GUIDANCE.names())
def guidance(request):
    component = GUIDANCE[request.param]
    return component.build(component.tiny, load=lambda run: Weak(lambda x, t: Estimate(0.9 * x, x + 0.1)))


class Weak:
    """Another run's model, as far as guidance knows it: `believes` of (x_t, t)."""

    def __init__(self, believes):
        self.believes = believes

    def estimator(self, cond, guidance=None):
        return self.believes


def given():
    with_it, without = (Branch(Cond(vector=torch.full((2, 7), v))) for v in (1.0, 0.0))
    return Given(with_it, without, PATH, lambda parts: Branch(Cond(vector=torch.full((2, 7), 0.5 + sum(parts)))))


def draw(seed):
    return torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("t", [torch.full((2,), 0.5), torch.tensor([[0.75, 0.5, 0.4, 0.1], [0.3, 0.3, 0.6, 0.7]])])
def test_one_batched_call_per_step_and_every_channel_of_the_right_shape(guidance, t):
    calls, known = [], given()

    def evaluate(x, t, branches):
        assert len(set(branches)) == len(branches), "a branch is asked for once"
        calls.append(branches)
        return [Estimate(x * (1 + i), x - i) for i, b in enumerate(branches)]

    x = draw(1)
    estimate = guidance(evaluate, known)(x, t.double())
    assert len(calls) == 1
    assert (known.uncond in calls[0]) == guidance.needs_uncond
    assert all(e.shape == SHAPE and e.isfinite().all() for e in estimate)


def test_when_both_beliefs_agree_guidance_changes_nothing(guidance):
    """Beliefs within the data's range and of the spread they should have: there is nothing to threshold either."""
    x, t = draw(1), torch.full((2,), 0.5, dtype=torch.float64)
    x0 = draw(2).clamp(-0.5, 0.5)
    belief = Estimate(x0, 2 * x - x0)  # on the linear path at t = 1/2
    guidance.weak = Weak(lambda x, t: belief)
    guided = guidance(lambda x, t, branches: [belief] * len(branches), given())(x, t)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(guided, belief, strict=True))


def test_a_guided_belief_still_explains_x_t(guidance):
    """alpha x0 + sigma noise = x_t: else samplers that read x0 and those that read the noise differ."""
    x, t = draw(1), torch.tensor([0.5, 0.3], dtype=torch.float64)
    alpha, sigma = (c(t)[:, None, None, None, None] for c in (PATH.alpha, PATH.sigma))

    def belief(seed):
        x0 = 1.5 * draw(seed)
        return Estimate(x0, (x - alpha * x0) / sigma)

    guidance.weak = Weak(lambda x, t: belief(9))
    x0, noise = guidance(lambda x, t, branches: [belief(3 + i) for i in range(len(branches))], given())(x, t)
    assert torch.allclose(alpha * x0 + sigma * noise, x, atol=1e-12)


def test_runs_share_no_state(guidance):
    """The same run twice from one guidance: nothing is remembered between them."""

    def evaluate(x, t, branches):
        return [Estimate(x * (1 + i) + t.mean(), x - i) for i, b in enumerate(branches)]

    def run():
        estimate, seen = guidance(evaluate, given()), []
        for t in (0.8, 0.5, 0.2):
            seen += estimate(draw(1), torch.full((2,), t, dtype=torch.float64))
        return torch.stack(seen)

    assert torch.equal(run(), run())


def test_samples_keep_apart(guidance):
    """The guided belief about sample 1 is the same in any company."""

    def evaluate(x, t, branches):
        return [Estimate(x * (1 + i), x - i * x**2) for i, b in enumerate(branches)]

    x, t = draw(1), torch.tensor([0.6, 0.4], dtype=torch.float64)
    both, alone = guidance(evaluate, given())(x, t), guidance(evaluate, given())(x[1:], t[1:])
    assert all(torch.allclose(a[1:], b, atol=1e-12) for a, b in zip(both, alone, strict=True))
