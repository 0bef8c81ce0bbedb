"""What every backbone promises: docs/architecture.md, "The contracts"; vidiff.types.Backbone."""

from __future__ import annotations

import copy
import re
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidiff.checks.parts import (
    Beside,
    PlainAttention,
    PlainPositions,
    PlainRotation,
    apart,
    draw,
    moved,
    randomised,
    require,
    watched_dice,
)
from vidiff.registry import Component, Setting
from vidiff.types import Cond, CondSpec, Grid

B, GRID, OUT = 2, Grid(6, 3, 4, 5), 7
TEXT, LENGTH, CHANNELS = 10, 8, 9


def uses(component: Component) -> frozenset[str]:
    """The routes of a condition it takes in."""
    return getattr(component.target, "uses", frozenset())


def width(component: Component) -> int:
    """The width a condition's vector must have: the setting `dim`, as the builder has it."""
    default = component.settings.get("dim", Setting("dim", int, 0)).default
    return component.tiny.get("dim", default)


def make(
    component: Component, grid: Grid = GRID, seed: int = 0, positions: type[nn.Module] = PlainPositions, **settings: Any
) -> nn.Module:
    """A fresh tiny network, wired as the builder does."""
    if getattr(component.target, "exact", False):
        raise Beside("it is no network but the answer for data of a known law (tests/contracts/test_backbone_exact.py)")
    routes = uses(component)
    spec = CondSpec(
        vector=width(component) if "vector" in routes else 0,
        tokens=TEXT if "tokens" in routes else 0,
        length=LENGTH if "tokens" in routes else 0,
        channels=CHANNELS if "channels" in routes else 0,
    )
    wiring = dict(grid=grid, out_channels=OUT, cond=spec, attention=PlainAttention(), positions=positions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return component.build({**component.tiny, **settings}, **wiring)


def ask(component: Component, b: int = B, grid: Grid = GRID, seed: int = 2) -> tuple[Tensor, Tensor, Cond]:
    """x (b,*grid), time (b,), a condition."""
    told: dict[str, Tensor] = {}
    if "vector" in uses(component):
        told["vector"] = draw(b, width(component), seed=seed + 1)
    if "tokens" in uses(component):
        told["tokens"] = draw(b, LENGTH, TEXT, seed=seed + 2)
        told["mask"] = torch.arange(LENGTH) < torch.arange(3, 3 + b)[:, None]
    if "channels" in uses(component):
        told["channels"] = draw(b, CHANNELS, *grid[1:], seed=seed + 3)
    return draw(b, *grid, seed=seed), torch.linspace(0.9, 0.2, b), Cond(**told)


def each(cond: Cond, change) -> Cond:
    """The condition with every tensor changed."""
    parts = {f.name: getattr(cond, f.name) for f in fields(Cond)}
    return Cond(**{name: None if part is None else change(part) for name, part in parts.items()})


def told_by(component: Component, *routes: str) -> list[str]:
    """Those of the routes that it takes in. Raises Beside when there are none."""
    taken = [route for route in routes if route in uses(component)]
    if not taken:
        raise Beside(f"it takes in no {' or '.join(routes)}")
    return taken


def in_type(cond: Cond, dtype: torch.dtype) -> Cond:
    """The condition in this dtype; masks stay bool."""
    return each(cond, lambda part: part.to(dtype) if part.is_floating_point() else part)


@torch.no_grad()
def answers_any_grid(component: Component) -> None:
    """A backbone answers (B,out_channels,t,h,w) for a latent (B,c,t,h,w) of any t, h, w with the channels it was
    built for, with positions that are added and with those that rotate."""
    for positions in (PlainPositions, PlainRotation):
        net = randomised(make(component, positions=positions))
        for sizes in (GRID[1:], (2, 6, 4), (5, 2, 3), (4, 3, 1)):
            grid = Grid(GRID.c, *sizes)
            net.check(grid)
            y = net(*ask(component, grid=grid))
            shape = (B, OUT, *sizes)
            require(y.shape == shape, f"{tuple(y.shape)} for a latent of {sizes}, expected {shape}.")
            require(y.isfinite().all(), f"numbers that are not finite for a latent of {sizes}.")


@torch.no_grad()
def takes_an_image_for_a_clip_of_one_frame(component: Component) -> None:
    """A network built for one frame answers one frame: images are videos with t = 1."""
    grid = Grid(GRID.c, 1, 4, 5)
    y = randomised(make(component, grid))(*ask(component, grid=grid))
    require(y.shape == (B, OUT, *grid[1:]), f"{tuple(y.shape)}, expected {(B, OUT, *grid[1:])}.")
    require(y.isfinite().all(), "numbers that are not finite.")


@torch.no_grad()
def has_what_the_builder_needs(component: Component) -> None:
    """A backbone has `uses` (a frozenset), `zero_init` (a bool), `check(grid)` and `blocks` with parameters: the
    builder, compile, sharding and recomputation ask for them."""
    net = make(component)
    require(isinstance(getattr(net, "uses", None), frozenset), "`uses` is no frozenset.")
    require(isinstance(getattr(net, "zero_init", None), bool), "`zero_init` is no bool.")
    require(len(getattr(net, "blocks", ())) > 0, "`blocks` is missing or empty.")
    require(all(any(True for _ in block.parameters()) for block in net.blocks), "a block has no parameters.")
    net.check(GRID)


@torch.no_grad()
def zero_at_the_start(component: Component) -> None:
    """A backbone with zero_init answers zero when it is fresh, the whole of it: if it does not, something that runs
    after the zeros (a later `apply(xavier)`, usually) overwrites them."""
    net = make(component).eval()
    if not net.zero_init:
        raise Beside("it does not claim to start at zero")
    largest = net(*ask(component)).abs().max().item()
    require(largest == 0, f"answers up to {largest:.3g} before any training.")


def the_start_is_a_function_of_the_seed(component: Component) -> None:
    """Built twice from one seed a network is the same, and from another seed another: weights are drawn from torch's
    generator, which the builder seeds, and from nowhere else."""
    one, same, other = (list(make(component, seed=seed).parameters()) for seed in (3, 3, 4))
    require(all(torch.equal(a, b) for a, b in zip(one, same, strict=True)), "two networks of one seed differ.")
    require(any(not torch.equal(a, b) for a, b in zip(one, other, strict=True)), "two seeds give the same network.")


def every_parameter_learns(component: Component) -> None:
    """Every parameter has a gradient: one that has none is not used, and only costs memory and confuses counts."""
    net = randomised(make(component))
    net(*ask(component)).square().mean().backward()
    unused = [k for k, p in net.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    require(not unused, f"no gradient at {', '.join(unused[:3])}{' …' if len(unused) > 3 else ''}.")
    wild = [k for k, p in net.named_parameters() if not p.grad.isfinite().all()]
    require(not wild, f"a gradient that is not finite at {', '.join(wild[:3])}.")


def every_parameter_moves_within_four_steps(component: Component) -> None:
    """A fresh network trains: four steps move every parameter. Zeros on both sides of a product never leave zero;
    keep the zeros on one side."""
    net = make(component).train()
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(4):
        optimizer.zero_grad()
        target = draw(B, OUT, *GRID[1:], seed=step)
        (net(*ask(component, seed=10 * step)) - target).square().mean().backward()
        optimizer.step()
    still = [key for key, p in net.named_parameters() if torch.equal(p, before[key])]
    require(not still, f"{', '.join(still[:3])}{' …' if len(still) > 3 else ''} did not move.")


def gradients_are_the_slopes(component: Component) -> None:
    """In float64 the gradient along a random direction of input and weights is what a small step along it measures: a
    `detach`, a backward of one's own, or a part that computes in float32 whatever it is given shows here."""
    net = randomised(make(component)).double()
    x, time, cond = ask(component)
    x, time, cond = x.double().requires_grad_(), time.double(), in_type(cond, torch.float64)
    leaves = [*net.parameters(), x]
    direction = [draw(*p.shape, seed=i).double() for i, p in enumerate(leaves)]
    target = draw(B, OUT, *GRID[1:], seed=99).double()

    def loss(step: float) -> Tensor:
        with torch.no_grad():
            for p, d in zip(leaves, direction, strict=True):
                p.add_(d, alpha=step)
        return (net(x, time, cond) * target).sum()

    grads = torch.autograd.grad(loss(0.0), leaves)
    slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True)).item()
    h = 1e-6
    numeric = (loss(h).item() - loss(-2 * h).item()) / (2 * h)
    require(abs(numeric - slope) <= 1e-5 * abs(slope), f"gradient {slope:.9g}, slope {numeric:.9g}.")


@torch.no_grad()
def samples_keep_apart(component: Component) -> None:
    """A sample's answer does not depend on the others of its batch: if it does, numbers leak along the batch axis
    (a norm over the batch, a reshape that mixes axes)."""
    net = randomised(make(component))
    x, time, cond = ask(component, b=3)
    together = net(x, time, cond)
    for i in range(3):
        alone = net(x[i : i + 1], time[i : i + 1], each(cond, lambda part, i=i: part[i : i + 1]))[0]
        off = apart(alone, together[i])
        require(off <= 0, f"sample {i} differs by {off + 1e-5:.3g} between a batch of one and of three.")


@torch.no_grad()
def a_spoilt_sample_spoils_nobody_else(component: Component) -> None:
    """A NaN in one sample arrives in its whole answer and in no other: 0 * NaN is NaN, so a product with zeros does not
    keep samples apart, nor may a NaN be hidden."""
    net = randomised(make(component))
    x, time, cond = ask(component, b=3)
    clean = net(x, time, cond)
    x[1], time[1] = torch.nan, torch.nan
    for part in (cond.vector, cond.tokens, cond.channels):
        if part is not None:
            part[1] = torch.nan
    spoilt = net(x, time, cond)
    require(apart(spoilt[[0, 2]], clean[[0, 2]]) <= 0, "a NaN in sample 1 arrives in the others.")
    require(spoilt[1].isnan().all(), "sample 1 is NaN and its answer is not.")


@torch.no_grad()
def sees_every_frame(component: Component) -> None:
    """Changing one place of any latent frame changes the answer: a frame that changes nothing is ignored (often the
    last, by a range that ends one too early)."""
    net = randomised(make(component))
    x, time, cond = ask(component)
    y = net(x, time, cond)
    for t in range(GRID.t):
        changed = x.clone()
        changed[:, :, t, t + 1, 2] += 1
        move = moved(net(changed, time, cond), y)
        require(move > 1e-4, f"frame {t} of {GRID.t} moves the answer by {move:.1g} of its norm.")


@torch.no_grad()
def answers_where_it_is_asked(component: Component) -> None:
    """What changes at a place changes the answer there more than at the others: else axes are mixed up on the way back
    (h and w swapped, `(t h w)` taken for `(h w t)`), which shapes do not show."""
    net = randomised(make(component))
    x, time, cond = ask(component, b=1)
    y, ratios = net(x, time, cond), []
    for i in range(x[0, 0].numel()):
        changed = x.clone()
        changed.view(*x.shape[:2], -1)[:, :, i] += 1
        move = (net(changed, time, cond) - y).norm(dim=1).flatten()
        ratios.append(move[i] * (len(move) - 1) / (move.sum() - move[i]).clamp(min=1e-12))
    typical = torch.stack(ratios).median().item()
    require(typical > 0.7, f"the place itself moves {typical:.2g} times as much as the others do on average.")


@torch.no_grad()
def frames_exchange_what_they_know(component: Component) -> None:
    """Changing one frame changes the answer at every frame: if it does not, nothing mixes along time. A network that
    is causal on purpose says so with a class attribute `causal = True`."""
    net = randomised(make(component))
    if getattr(net, "causal", False):
        raise Beside("it is causal: earlier frames do not know later ones")
    x, time, cond = ask(component)
    changed = x.clone()
    changed[:, :, 1] += 1
    difference = (net(changed, time, cond) - net(x, time, cond)).abs().amax(dim=(0, 1, 3, 4))
    deaf = [t for t in range(GRID.t) if not difference[t] > 1e-5]
    require(not deaf, f"frame {deaf} of {GRID.t} does not notice another frame 1.")


@torch.no_grad()
def sees_the_time(component: Component) -> None:
    """Neighbouring times are told apart: t of order one must be scaled (by 1000, say) before a sinusoid of periods
    up to 10000, or 0 and 0.01 look the same to the network."""
    net = randomised(make(component))
    x, time, cond = ask(component)
    y = net(x, time, cond)
    near, far = (moved(net(x, time + step, cond), y) for step in (0.01, 0.1))
    require(far > 1e-5, f"the answers at t and t + 0.1 differ by {far:.2g} of their norm.")
    require(near > 0.2 * far, f"the answers at t and t + 0.01 differ by {near:.2g} of their norm, t + 0.1: {far:.2g}.")


@torch.no_grad()
def sees_the_condition(component: Component) -> None:
    """Every route of the condition that a backbone names in `uses` changes its answer."""
    net = randomised(make(component))
    x, time, cond = ask(component)
    y = net(x, time, cond)
    for route in told_by(component, "vector", "tokens", "channels"):
        other = replace(cond, **{route: getattr(cond, route).flip(0)})
        move = moved(net(x, time, other), y)
        require(move > 1e-3, f"another {route} moves the answer by {move:.1g} of its norm.")


@torch.no_grad()
def text_that_is_masked_is_not_seen(component: Component) -> None:
    """cond.mask (B,L), True = keep: tokens that are False change nothing and may be left out, and no mask is a mask
    of True. A mask that is inverted, or not given to the attention, shows here."""
    told_by(component, "tokens")
    net = randomised(make(component))
    x, time, cond = ask(component)
    y = net(x, time, cond)
    noise = torch.where(cond.mask[..., None], cond.tokens, draw(*cond.tokens.shape, seed=50))
    off = apart(net(x, time, replace(cond, tokens=noise)), y, 1e-6)
    require(off <= 0, "other masked tokens give another answer.")
    longest = int(cond.mask.sum(1).max())
    shorter = replace(cond, tokens=cond.tokens[:, :longest], mask=cond.mask[:, :longest])
    require(apart(net(x, time, shorter), y) <= 0, "without the tokens that nobody keeps the answer is another.")
    everything = net(x, time, replace(cond, mask=torch.ones_like(cond.mask)))
    require(apart(everything, net(x, time, replace(cond, mask=None))) <= 0, "no mask is not a mask of True.")
    move = moved(everything, y)
    require(move > 1e-4, f"masked tokens that are kept move the answer by {move:.1g} of its norm.")


@torch.no_grad()
def channels_are_seen_where_they_lie(component: Component) -> None:
    """cond.channels (B,k,t,h,w) lie on the latent's grid: one place of any frame of theirs changes the answer."""
    told_by(component, "channels")
    net = randomised(make(component))
    x, time, cond = ask(component)
    y = net(x, time, cond)
    for t in range(GRID.t):
        other = cond.channels.clone()
        other[:, :, t, t + 1, 2] += 1
        move = moved(net(x, time, replace(cond, channels=other)), y)
        require(move > 1e-5, f"frame {t} of {GRID.t} moves the answer by {move:.1g} of its norm.")


@torch.no_grad()
def refuses_a_condition_that_does_not_fit(component: Component) -> None:
    """Tokens or channels that are missing, or of another width than the network was built for, raise a ValueError that
    names that width: else they are ignored, or fail deep inside."""
    routes = told_by(component, "tokens", "channels")
    net = make(component)
    x, time, cond = ask(component)
    for route in routes:
        part, width = getattr(cond, route), {"tokens": TEXT, "channels": CHANNELS}[route]
        narrow = part[..., :-1] if route == "tokens" else part[:, :-1]
        short = [part[..., :-1]] if route == "channels" else []
        for wrong in (None, narrow, *short):
            what = f"no {route}" if wrong is None else f"{route} {tuple(wrong.shape)} for {tuple(part.shape)}"
            try:
                net(x, time, replace(cond, **{route: wrong}))
            except ValueError as error:
                text = str(error)
            else:
                text = ""
            require(text, f"{what}: an answer.")
            names = re.search(rf"(?<!\d){width}(?!\d)", text) and "\n" not in text
            require(names, f"{what}: '{text.splitlines()[0]}' does not name {width} in one line.")


@torch.no_grad()
def takes_a_time_per_frame(component: Component) -> None:
    """time (B,t) with one value repeated is the same as time (B,), so per-frame noise needs no second code path; and
    another time of one frame changes the answer."""
    net = randomised(make(component))
    x, time, cond = ask(component)
    y, per_frame = net(x, time, cond), time[:, None].expand(B, GRID.t)
    off = apart(net(x, per_frame, cond), y)
    require(off <= 0, f"one time and that time for every frame differ by {off + 1e-5:.3g}.")
    other = per_frame.clone()
    other[:, 2] += 0.05
    move = moved(net(x, other, cond), y)
    require(move > 1e-3, f"another time of frame 2 moves the answer by {move:.1g} of its norm.")


@torch.no_grad()
def leaves_its_inputs_alone(component: Component) -> None:
    """A backbone does not write into what it is given (x += …): samplers use the same tensor again."""
    net = randomised(make(component))
    x, time, cond = ask(component)
    kept = x.clone(), time.clone(), each(cond, torch.Tensor.clone)
    net(x, time, cond)
    require(torch.equal(x, kept[0]), "x was changed.")
    require(torch.equal(time, kept[1]), "time was changed.")
    for f in fields(Cond):
        a, b = getattr(cond, f.name), getattr(kept[2], f.name)
        require(a is None or torch.equal(a, b), f"cond.{f.name} was changed.")


@torch.no_grad()
def throws_no_dice(component: Component) -> None:
    """In eval mode a backbone is a function: it gives the same answer twice and uses no global generator."""
    net = randomised(make(component))
    asked = ask(component)
    with watched_dice():
        first, second = net(*asked), net(*asked)
    require(torch.equal(first, second), "two calls give two answers.")


@torch.no_grad()
def keeps_its_state(component: Component) -> None:
    """A state dict holds all there is to know, and parameters only (what can be computed is computed): another network
    that loads it, or is a copy, answers alike."""
    for positions in (PlainPositions, PlainRotation):
        net = randomised(make(component, positions=positions))
        extra = set(net.state_dict()) ^ {name for name, _ in net.named_parameters()}
        require(not extra, f"{', '.join(sorted(extra)[:3])} is in the state or a parameter, not both.")
        fresh, asked = make(component, seed=5, positions=positions).eval(), ask(component)
        y = net(*asked)
        fresh.load_state_dict(net.state_dict())
        require(torch.equal(fresh(*asked), y), "the loaded copy answers otherwise.")
        require(torch.equal(copy.deepcopy(net)(*asked), y), "a deep copy answers otherwise.")


@torch.no_grad()
def runs_in_bfloat16(component: Component) -> None:
    """Under autocast to bfloat16, and with weights and latent in bfloat16, the answer stays near that in float32."""
    net = randomised(make(component))
    x, time, cond = ask(component)
    exact = net(x, time, cond)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = copy.deepcopy(net)(x, time, cond)
    move = moved(mixed.float(), exact)
    require(move < 0.05, f"under autocast they differ by {move:.2g} of the norm.")
    pure = copy.deepcopy(net).bfloat16()(x.bfloat16(), time, in_type(cond, torch.bfloat16))
    require(pure.dtype == torch.bfloat16, f"with a latent in bfloat16 the answer is {pure.dtype}.")
    move = moved(pure.float(), exact)
    require(move < 0.1, f"with weights in bfloat16 they differ by {move:.2g} of the norm.")


@torch.no_grad()
def runs_in_float64(component: Component) -> None:
    """In float64 the answer is float64 and that of float32 but for rounding: comparisons need one exact side."""
    net = randomised(make(component))
    x, time, cond = ask(component)
    exact = net(x, time, cond)
    y = net.double()(x.double(), time.double(), in_type(cond, torch.float64))
    require(y.dtype == torch.float64, f"the answer is {y.dtype}.")
    off = apart(y.float(), exact, 1e-4)
    require(off <= 0, f"they differ by {off + 1e-4:.3g}.")


def condition_costs_nothing_per_token(component: Component) -> None:
    """What a time per frame costs more than one time grows with the frames and not with the places of a frame:
    modulation is computed once per sample or frame, never per token."""
    with torch.device("meta"):
        net = make(component)

    def flops(grid: Grid, per_frame: bool) -> int:
        x, _, cond = (v.to("meta") if isinstance(v, Tensor) else v for v in ask(component, grid=grid))
        time = torch.zeros((B, grid.t) if per_frame else (B,), device="meta")
        with FlopCounterMode(display=False) as counter:
            net(x, time, each(cond, lambda part: part.to("meta")))
        return counter.get_total_flops()

    small, large, longer = Grid(GRID.c, 3, 4, 5), Grid(GRID.c, 3, 8, 10), Grid(GRID.c, 5, 4, 5)
    extra = [flops(g, True) - flops(g, False) for g in (small, large, longer)]
    require(extra[0] == extra[1], f"{extra[0]:,} FLOPs more with 20 places a frame, {extra[1]:,} with 80.")
    require(extra[0] > 0, "one time per sample costs as much as a time per frame.")
    require(extra[2] == 2 * extra[0], f"{extra[0]:,} FLOPs more for 2 further times, {extra[2]:,} for 4.")


def recomputed_activations_change_nothing(component: Component) -> None:
    """With the setting `recompute` every block runs a second time in the backward pass, and answers and gradients are
    the same in bits."""
    if "recompute" not in component.settings:
        raise Beside("it has no setting `recompute`")
    for per_frame in (False, True):
        results, runs = [], []
        for recompute in (False, True):
            net, count = randomised(make(component, recompute=recompute)).train(), []
            x, time, cond = ask(component)
            for block in net.blocks:
                block.register_forward_pre_hook(lambda *_, count=count: count.append(1))
            y = net(x, time[:, None].expand(B, GRID.t) if per_frame else time, cond)
            y.square().mean().backward()
            results.append([y, *(p.grad for p in net.parameters())])
            runs.append(len(count))
        equal = all(torch.equal(a, b) for a, b in zip(*results, strict=True))
        require(equal, "the answer or a gradient changes.")
        num = len(net.blocks)
        require(runs == [num, 2 * num], f"{num} blocks ran {runs[0]} times without and {runs[1]} with it.")


CHECKS = (
    answers_any_grid, takes_an_image_for_a_clip_of_one_frame, has_what_the_builder_needs, zero_at_the_start,
    the_start_is_a_function_of_the_seed, every_parameter_learns, every_parameter_moves_within_four_steps,
    gradients_are_the_slopes, samples_keep_apart, a_spoilt_sample_spoils_nobody_else, sees_every_frame,
    answers_where_it_is_asked, frames_exchange_what_they_know, sees_the_time, sees_the_condition,
    text_that_is_masked_is_not_seen,
    channels_are_seen_where_they_lie, refuses_a_condition_that_does_not_fit, takes_a_time_per_frame,
    leaves_its_inputs_alone, throws_no_dice, keeps_its_state, runs_in_bfloat16, runs_in_float64,
    condition_costs_nothing_per_token, recomputed_activations_change_nothing,
)  # fmt: skip
