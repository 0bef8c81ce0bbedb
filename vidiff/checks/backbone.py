"""What every backbone promises: docs/architecture.md, "The contracts"; vidiff.types.Backbone."""

from __future__ import annotations

import copy
from dataclasses import fields

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidiff.checks.parts import Beside, PlainAttention, PlainPositions, draw, moved, randomised, require, watched_dice
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


def make(component: Component, grid: Grid = GRID, seed: int = 0) -> nn.Module:
    """A fresh tiny network, wired as the builder does."""
    routes = uses(component)
    spec = CondSpec(
        vector=width(component) if "vector" in routes else 0,
        tokens=TEXT if "tokens" in routes else 0,
        length=LENGTH if "tokens" in routes else 0,
        channels=CHANNELS if "channels" in routes else 0,
    )
    wiring = dict(grid=grid, out_channels=OUT, cond=spec, attention=PlainAttention(), positions=PlainPositions)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return component.build(component.tiny, **wiring)


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


@torch.no_grad()
def answers_any_grid(component: Component) -> None:
    """A backbone answers (B,out_channels,t,h,w) for a latent (B,c,t,h,w) of any t, h, w with the channels it was
    built for."""
    net = randomised(make(component))
    for sizes in (GRID[1:], (2, 6, 4), (5, 2, 3)):
        y = net(*ask(component, grid=Grid(GRID.c, *sizes)))
        require(y.shape == (B, OUT, *sizes), f"{tuple(y.shape)} for a latent of {sizes}, expected {(B, OUT, *sizes)}.")
        require(y.isfinite().all(), f"numbers that are not finite for a latent of {sizes}.")


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


def every_parameter_learns(component: Component) -> None:
    """Every parameter has a gradient: one that has none is not used, and only costs memory and confuses counts."""
    net = randomised(make(component))
    net(*ask(component)).square().mean().backward()
    unused = [k for k, p in net.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    require(not unused, f"no gradient at {', '.join(unused[:3])}{' …' if len(unused) > 3 else ''}.")


@torch.no_grad()
def samples_keep_apart(component: Component) -> None:
    """A sample's answer does not depend on the others of its batch: if it does, numbers leak along the batch axis
    (a norm over the batch, a reshape that mixes axes)."""
    net = randomised(make(component))
    x, time, cond = ask(component, b=3)
    together = net(x, time, cond)
    for i in range(3):
        alone = net(x[i : i + 1], time[i : i + 1], each(cond, lambda part, i=i: part[i : i + 1]))[0]
        off = (alone - together[i]).abs().max().item()
        require(off <= 1e-4, f"sample {i} differs by {off:.3g} between a batch of one and of three.")


@torch.no_grad()
def sees_every_frame(component: Component) -> None:
    """Changing any latent frame changes the answer: a frame that changes nothing is ignored (often the last, by a
    range that ends one too early)."""
    net = randomised(make(component))
    x, time, cond = ask(component)
    y = net(x, time, cond)
    for t in range(GRID.t):
        changed = x.clone()
        changed[:, :, t] += 1
        move = moved(net(changed, time, cond), y)
        require(move > 1e-4, f"frame {t} of {GRID.t} moves the answer by {move:.1g} of its norm.")


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
    for route in sorted(uses(component) & {"vector", "tokens", "channels"}):
        parts = {f.name: getattr(cond, f.name) for f in fields(Cond)}
        parts[route] = parts[route].flip(0) + 1
        move = moved(net(x, time, Cond(**parts)), y)
        require(move > 1e-4, f"another {route} moves the answer by {move:.1g} of its norm.")


@torch.no_grad()
def takes_a_time_per_frame(component: Component) -> None:
    """time (B,t) with one value repeated is the same as time (B,): per-frame noise needs no second code path."""
    net = randomised(make(component))
    x, time, cond = ask(component)
    off = (net(x, time[:, None].expand(B, GRID.t), cond) - net(x, time, cond)).abs().max().item()
    require(off <= 1e-4, f"the answers differ by {off:.3g}.")


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
    """A state dict holds all there is to know: another network that loads it answers alike."""
    net, fresh = randomised(make(component)), make(component, seed=5).eval()
    fresh.load_state_dict(net.state_dict())
    require(torch.equal(fresh(*ask(component)), net(*ask(component))), "the loaded copy answers otherwise.")


@torch.no_grad()
def runs_in_bfloat16(component: Component) -> None:
    """Under autocast to bfloat16 the answer stays near that in float32."""
    net = randomised(make(component))
    exact = net(*ask(component))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = copy.deepcopy(net)(*ask(component))
    move = moved(mixed.float(), exact)
    require(move < 0.08, f"they differ by {move:.2g} of the norm.")


def condition_costs_nothing_per_token(component: Component) -> None:
    """What a time per frame costs more than one time does not grow with the places of a frame: modulation is
    computed once per sample or frame, never per token."""
    with torch.device("meta"):
        net = make(component)

    def flops(grid: Grid, per_frame: bool) -> int:
        x, _, cond = (v.to("meta") if isinstance(v, Tensor) else v for v in ask(component, grid=grid))
        time = torch.zeros((B, grid.t) if per_frame else (B,), device="meta")
        with FlopCounterMode(display=False) as counter:
            net(x, time, each(cond, lambda part: part.to("meta")))
        return counter.get_total_flops()

    small, large = Grid(GRID.c, 3, 4, 5), Grid(GRID.c, 3, 8, 10)
    extra = [flops(g, True) - flops(g, False) for g in (small, large)]
    require(extra[0] == extra[1], f"{extra[0]:,} FLOPs more with 20 places a frame, {extra[1]:,} with 80.")


CHECKS = (
    answers_any_grid, has_what_the_builder_needs, zero_at_the_start, every_parameter_learns, samples_keep_apart,
    sees_every_frame, sees_the_time, sees_the_condition, takes_a_time_per_frame, leaves_its_inputs_alone,
    throws_no_dice, keeps_its_state, runs_in_bfloat16, condition_costs_nothing_per_token,
)  # fmt: skip
