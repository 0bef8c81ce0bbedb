"""What every conditioner promises: vidiff.types.Conditioner."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vidiff.checks.parts import Beside, draw, require, watched_dice
from vidiff.registry import Component
from vidiff.types import Cond, CondSpec, Grid

B, WIDTH, CLASSES, GRID = 3, 20, 7, Grid(6, 4, 3, 5)
ROUTES = ("vector", "tokens", "channels", "coords", "image")


def make(component: Component) -> nn.Module:
    """A tiny one, wired as the builder does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = component.build(component.tiny, width=WIDTH, num_classes=CLASSES, grid=GRID).eval()
    unknown = getattr(made, "reads", frozenset()) - set(batch())
    if unknown:
        raise Beside(f"it reads {', '.join(sorted(unknown))}, which these checks cannot invent")
    return made


def batch(seed: int = 1) -> dict[str, Any]:
    """Entries of three samples."""
    return {
        "label": torch.tensor([4, 0, 6]) if seed == 1 else torch.tensor([1, 5, 2]),
        "text": ["a four", "a zero", "a six"] if seed == 1 else ["x", "y", "z"],
        "fps": torch.tensor([8.0, 5.0, 3.0]) * seed,
        "text_tokens": draw(B, 5, 10, seed=seed),
        "text_mask": torch.arange(5) < torch.tensor([[2], [4], [5]]),
        "latent": draw(B, *GRID, seed=seed),
        "image_tokens": draw(B, 6, 14, seed=seed),
        "latent_beside": draw(B, 4, *GRID[1:], seed=seed),
        "text_vector": draw(B, 6, seed=seed),
        "video": draw(B, 3, 8, 10, 12, seed=seed).clamp(-1, 1),
        "camera": draw(B, 8, 3, 4, seed=seed),
        "intrinsics": 1 + draw(B, 4, seed=seed).abs(),
    }


def drops(conditioner: nn.Module, *which: int) -> Tensor:
    """Who is dropped: (B,) or (B,k) bool."""
    drop = torch.tensor([i in which for i in range(B)])
    more = torch.tensor(conditioner.drop).shape
    return drop[:, None].expand(B, *more) if more else drop


def values(cond: Cond) -> dict[str, Tensor]:
    """The routes in use."""
    return {route: getattr(cond, route) for route in ROUTES if getattr(cond, route) is not None}


def gives_what_its_spec_says(component: Component) -> None:
    """The Cond holds the routes and widths that `spec` promises: the backbone is built from it."""
    conditioner = make(component)
    require(isinstance(conditioner.spec, CondSpec), "`spec` is no CondSpec.")
    found = values(conditioner(batch(), drops(conditioner)))
    require(set(found) == set(conditioner.spec.provides), f"{sorted(found)} for {sorted(conditioner.spec.provides)}.")
    spec = conditioner.spec
    shapes = {"vector": (B, spec.vector), "tokens": (B, spec.length, spec.tokens),
              "channels": (B, spec.channels, *GRID[1:])}  # fmt: skip
    for route, part in found.items():
        if route in shapes:
            require(part.shape == shapes[route], f"{route} is {tuple(part.shape)}, `spec` says {shapes[route]}.")
        wide = getattr(spec, route)
        require(route in shapes or part.shape[-1] == wide, f"{route} is {part.shape[-1]} wide, `spec` says {wide}.")
    mask = conditioner(batch(), drops(conditioner)).mask
    fits = mask is None or (mask.dtype == torch.bool and mask.shape == found["tokens"].shape[:2])
    require(fits, "the mask is not bool of (B,L): True = keep.")
    require(mask is None or spec.masked, "it gives a mask, and `spec.masked` is False: no attention was asked for one.")


def drop_is_a_probability(component: Component) -> None:
    """`drop` is a probability, or one for each condition."""
    drop = make(component).drop
    each = drop if isinstance(drop, tuple) else (drop,)
    require(all(isinstance(p, float) and 0 <= p <= 1 for p in each), f"it is {drop!r}: a float, or a tuple of floats.")


@torch.no_grad()
def what_is_dropped_says_nothing(component: Component) -> None:
    """A dropped sample is told the null condition whatever its entries were: else guidance compares nothing."""
    conditioner = make(component)
    everyone = drops(conditioner, 0, 1, 2)
    one, other = (values(conditioner(batch(seed), everyone)) for seed in (1, 2))
    for route in one:
        require(torch.equal(one[route], other[route]), f"{route} still depends on the entries.")


@torch.no_grad()
def what_is_kept_tells_the_entries(component: Component) -> None:
    """mask (B,L), True = keep: every sample keeps a token, also when it is dropped, and other entries make other kept
    tokens. If they do not, the mask is inverted, and what it hides is what was to be said."""
    conditioner = make(component)
    told, other = (conditioner(batch(seed), drops(conditioner)) for seed in (1, 2))
    if told.mask is None:
        raise Beside("it masks no tokens")
    for which, cond in (("", told), (" that is dropped", conditioner(batch(), drops(conditioner, 0, 1, 2)))):
        require(cond.mask.any(1).all(), f"a sample{which} keeps no token.")
    one, two = (torch.where(c.mask[..., None], c.tokens, 0.0).flatten(1) for c in (told, other))
    for i in range(B):
        require(not torch.equal(one[i], two[i]), f"sample {i} keeps the same tokens whatever its entries.")


@torch.no_grad()
def dropping_one_leaves_the_others(component: Component) -> None:
    """Each sample is dropped on its own: it is told something else then, and the others what they were told before."""
    conditioner = make(component)
    kept, one = (values(conditioner(batch(), drops(conditioner, *who))) for who in ((), (1,)))
    for route in kept:
        for i in (0, 2):
            require(torch.equal(kept[route][i], one[route][i]), f"{route} of sample {i} changed with 1.")
        require(not torch.equal(kept[route][1], one[route][1]), f"{route} of sample 1 is the same without its entries.")


@torch.no_grad()
def throws_no_dice(component: Component) -> None:
    """Who draws is the caller: the conditioner uses no global generator and says the same twice."""
    conditioner = make(component).train()
    with watched_dice():
        first, second = (values(conditioner(batch(), drops(conditioner))) for _ in range(2))
    for route in first:
        require(torch.equal(first[route], second[route]), f"{route} differs between two calls.")


CHECKS = (gives_what_its_spec_says, drop_is_a_probability, what_is_dropped_says_nothing,
          what_is_kept_tells_the_entries, dropping_one_leaves_the_others, throws_no_dice)  # fmt: skip
