"""What every guidance promises: estimate -> estimate, on all channels, with one batched call of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vidiff.checks.parts import Beside, Straight, apart, draw, require
from vidiff.diffusion.estimate import Estimate, EstimateFn
from vidiff.diffusion.guidance import Branch, Given
from vidiff.registry import Component
from vidiff.types import Cond

SHAPE = (2, 7, 4, 5, 6)


class Weak:
    """The model of another run, as far as guidance knows it: `believes` of (x_t, t)."""

    def __init__(self, believes: EstimateFn):
        self.believes = believes

    def estimator(self, cond: Cond, guidance: Any = None) -> EstimateFn:
        """The same whatever the condition."""
        return self.believes


def make(component: Component, believes: EstimateFn = lambda x, t: Estimate(0.9 * x, x + 0.1)) -> Any:
    """A tiny one beside a weaker model that believes this."""
    return component.build(component.tiny, load=lambda run, *needs: Weak(believes))


def given() -> Given:
    """Two conditions, on the straight path."""
    with_it, without = (Branch(Cond(vector=torch.full((2, 7), v))) for v in (1.0, 0.0))
    return Given(with_it, without, Straight(), lambda parts: Branch(Cond(vector=torch.full((2, 7), 0.5 + sum(parts)))))


def latent(seed: int) -> Tensor:
    """Unit noise in float64."""
    return draw(*SHAPE, seed=seed).double()


def guides_all_channels_alike(component: Component) -> None:
    """Beliefs with their channels in reverse are guided to the same answer in reverse: a rule that stops at three or
    four channels leaves the others unguided."""
    known, half = given(), torch.full((SHAPE[0],), 0.5, dtype=torch.float64)
    with_it, without = Estimate(latent(2), latent(3)), Estimate(latent(5), latent(6))

    def guided(reverse: bool) -> Estimate:
        def turn(y: Tensor) -> Tensor:
            return y.flip(1) if reverse else y

        def evaluate(x: Tensor, t: Tensor, branches: Sequence[Branch]) -> list[Estimate]:
            return [Estimate(*map(turn, with_it if branch is known.cond else without)) for branch in branches]

        estimate = make(component, lambda x, t: Estimate(x / 2, x))(evaluate, known)
        return Estimate(*map(turn, estimate(turn(latent(4)), half)))

    one, other = guided(False), guided(True)
    require(one.x0.isfinite().all() and one.noise.isfinite().all(), "numbers that are not finite.")
    off = (one.x0 - other.x0).abs().amax(dim=(0, 2, 3, 4))
    require(off.max() <= 1e-4, f"in reverse order channels are off by {', '.join(f'{a:.3g}' for a in off)}.")


def asks_once_in_a_step(component: Component) -> None:
    """All branches of a step go through the network in one call, each once, the one without condition exactly when
    `needs_uncond` says so; and what comes out has the latent's shape, for one time per sample and one per frame."""
    for t in (torch.full((2,), 0.5), torch.tensor([[0.75, 0.5, 0.4, 0.1], [0.3, 0.3, 0.6, 0.7]])):
        guidance, calls, known = make(component), [], given()

        def evaluate(x: Tensor, t: Tensor, branches: Sequence[Branch], calls=calls) -> list[Estimate]:
            require(len(set(branches)) == len(branches), "a branch is asked for twice in one call.")
            calls.append(branches)
            return [Estimate(x * (1 + i), x - i) for i, _ in enumerate(branches)]

        estimate = guidance(evaluate, known)(latent(1), t.double())
        require(len(calls) == 1, f"{len(calls)} calls in one step.")
        asked, says = known.uncond in calls[0], guidance.needs_uncond
        require(asked == says, f"needs_uncond is {says}, and the branch was {'' if asked else 'not '}asked for.")
        for e in estimate:
            require(e.shape == SHAPE, f"it gives {tuple(e.shape)} for {SHAPE}.")
            require(e.isfinite().all(), "numbers that are not finite.")


def agreement_changes_nothing(component: Component) -> None:
    """Where all beliefs agree, within the data's range and of the spread they should have, there is nothing to guide:
    coefficients that do not sum to one move the sample."""
    x, t, x0 = latent(1), torch.full((2,), 0.5, dtype=torch.float64), latent(2).clamp(-0.5, 0.5)
    belief = Estimate(x0, 2 * x - x0)  # on the straight path at t = 1/2
    guidance = make(component, lambda x, t: belief)
    guided = guidance(lambda x, t, branches: [belief] * len(branches), given())(x, t)
    off = max(apart(a, b, 1e-12) for a, b in zip(guided, belief, strict=True))
    require(off <= 0, f"it moves a common belief by {off + 1e-12:.3g}.")


def scale_one_is_no_guidance(component: Component) -> None:
    """With `scale` 1 the guided belief is the conditional one. Papers that write w = scale - 1 call that 0: add one, or
    a scale means something else than in every other guidance here."""
    if "scale" not in component.settings:
        raise Beside("it has no setting `scale`")
    x, t, known = latent(1), torch.full((2,), 0.5, dtype=torch.float64), given()
    told, other = (Estimate(x0, 2 * x - x0) for x0 in (latent(2), latent(3)))
    guidance = make(replace(component, tiny={**component.tiny, "scale": 1.0}), lambda x, t: other)
    guided = guidance(lambda x, t, branches: [told if branch is known.cond else other for branch in branches], known)
    off = max(apart(a, b, 1e-9) for a, b in zip(guided(x, t), told, strict=True))
    require(off <= 0, f"at scale 1 it is off the conditional belief by {off + 1e-9:.3g}.")


def still_explains_x_t(component: Component) -> None:
    """alpha x0 + sigma noise = x_t after guidance: else samplers that read x0 and those that read the noise differ."""
    x, t = latent(1), torch.tensor([0.5, 0.3], dtype=torch.float64)
    sigma = t[:, None, None, None, None]
    alpha = 1 - sigma

    def belief(seed: int) -> Estimate:
        x0 = 1.5 * latent(seed)
        return Estimate(x0, (x - alpha * x0) / sigma)

    guidance = make(component, lambda x, t: belief(9))
    x0, noise = guidance(lambda x, t, branches: [belief(3 + i) for i in range(len(branches))], given())(x, t)
    off = apart(alpha * x0 + sigma * noise, x, 1e-12)
    require(off <= 0, f"it is off x_t by {off + 1e-12:.3g}. Guide x0 and solve for the noise, or guide both alike.")


def runs_share_no_state(component: Component) -> None:
    """The same run twice from one guidance is the same: what a run remembers belongs to the function that
    `guidance(evaluate, given)` gives, not to the guidance."""
    guidance = make(component)

    def evaluate(x: Tensor, t: Tensor, branches: Sequence[Branch]) -> list[Estimate]:
        return [Estimate(x * (1 + i) + t.mean(), x - i) for i, _ in enumerate(branches)]

    def run() -> Tensor:
        estimate, seen = guidance(evaluate, given()), []
        for t in (0.8, 0.5, 0.2):
            seen += estimate(latent(1), torch.full((2,), t, dtype=torch.float64))
        return torch.stack(seen)

    require(torch.equal(run(), run()), "the second run is another.")


def samples_keep_apart(component: Component) -> None:
    """The guided belief about sample 1 is the same in any company: norms and quantiles are of one sample each."""
    guidance = make(component)

    def evaluate(x: Tensor, t: Tensor, branches: Sequence[Branch]) -> list[Estimate]:
        return [Estimate(x * (1 + i), x - i * x**2) for i, _ in enumerate(branches)]

    x, t = latent(1), torch.tensor([0.6, 0.4], dtype=torch.float64)
    both, alone = guidance(evaluate, given())(x, t), guidance(evaluate, given())(x[1:], t[1:])
    off = max(apart(a[1:], b, 1e-12) for a, b in zip(both, alone, strict=True))
    require(off <= 0, f"it differs by {off + 1e-12:.3g} alone and in a batch of two.")


CHECKS = (guides_all_channels_alike, asks_once_in_a_step, agreement_changes_nothing,
          scale_one_is_no_guidance, still_explains_x_t, runs_share_no_state, samples_keep_apart)  # fmt: skip
