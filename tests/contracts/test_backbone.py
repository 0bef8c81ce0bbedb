"""What every registered backbone promises. A network of one's own is tested by being registered.

Sizes are pairwise different; "random" networks have every parameter randomised, because a fresh one
answers zero whatever it is asked.
"""

import copy
import math
import random as python_random
from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import zoo.attention
import zoo.backbones
import zoo.positions  # noqa: F401
from vidiff.registry import BACKBONES, Setting, build
from vidiff.types import Cond, CondSpec, Grid

B, GRID, OUT = 2, Grid(6, 3, 4, 5), 7
TEXT, LENGTH = 10, 8
"""Width and number of the tokens of a text; every sample leaves out some of them."""
CHANNELS = 9
"""Of a condition that lies on the latent's grid."""

NAMES = [c.name for c in BACKBONES if not getattr(c.target, "exact", False)]
"""Those that learn; test_backbone_exact.py has the others."""


def width(component, settings):
    """The width a condition's vector must have: the setting `dim`, as the builder has it."""
    given = {**component.tiny, **settings}
    default = component.settings.get("dim", Setting("dim", int, 0)).default
    return given.get("dim", default)


def make(name, *, grid=GRID, out=OUT, positions="sincos", attention="sdpa", seed=0, **settings):
    """A fresh tiny network of this name, wired as the builder does."""
    component = BACKBONES[name]
    torch.manual_seed(seed)
    uses = getattr(component.target, "uses", frozenset())
    return component.build(
        {**component.tiny, **settings},
        grid=grid,
        out_channels=out,
        cond=CondSpec(
            vector=width(component, settings) if "vector" in uses else 0,
            tokens=TEXT if "tokens" in uses else 0,
            length=LENGTH if "tokens" in uses else 0,
            channels=CHANNELS if "channels" in uses else 0,
        ),
        attention=build("attention", attention),
        positions=partial(build, "positions", positions),
    )


def randomised(net, seed=1):
    """Every parameter drawn anew, so that outputs are of order one and nothing is zero."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            scale = 0.3 if p.ndim < 2 else math.prod(p.shape[1:]) ** -0.5
            p.copy_(torch.randn(p.shape, generator=random) * scale)
    return net.eval()


def draw(*shape, seed=2):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ask(name, b=B, grid=GRID, seed=2):
    """x (b,*grid), time (b,), a condition."""
    component = BACKBONES[name]
    uses = getattr(component.target, "uses", frozenset())
    told = {}
    if "vector" in uses:
        told["vector"] = draw(b, width(component, {}), seed=seed + 1)
    if "tokens" in uses:
        told["tokens"] = draw(b, LENGTH, TEXT, seed=seed + 2)
        told["mask"] = torch.arange(LENGTH) < torch.arange(3, 3 + b)[:, None]
    if "channels" in uses:
        told["channels"] = draw(b, CHANNELS, *grid[1:], seed=seed + 3)
    return draw(b, *grid, seed=seed), torch.linspace(0.9, 0.2, b), Cond(**told)


def each(cond, change):
    """The condition with every tensor changed (masks too)."""
    parts = {f.name: getattr(cond, f.name) for f in fields(Cond)}
    return Cond(**{name: None if part is None else change(part) for name, part in parts.items()})


def as_type(cond, dtype):
    return each(cond, lambda part: part.to(dtype) if part.is_floating_point() else part)


def with_route(route):
    return [n for n in NAMES if route in getattr(BACKBONES[n].target, "uses", ())]


def only(cond, *rows):
    return each(cond, lambda part: part[list(rows)])


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


# ---- shapes ----


@pytest.mark.parametrize("sizes", [(3, 4, 5), (2, 6, 4), (5, 2, 3), (4, 3, 1)])
@torch.no_grad()
def test_any_grid_with_the_same_channels(name, sizes):
    grid = Grid(GRID.c, *sizes)
    net = randomised(make(name))
    net.check(grid)
    y = net(*ask(name, grid=grid))
    assert y.shape == (B, OUT, *sizes) and y.isfinite().all()


@pytest.mark.parametrize("positions", ["none", "sincos", "learned", "rotary"])
@torch.no_grad()
def test_any_positions_on_its_own_grid_and_another(name, positions):
    net = randomised(make(name, positions=positions))
    for grid in (GRID, Grid(GRID.c, 5, 6, 3)):
        assert net(*ask(name, grid=grid)).shape == (B, OUT, *grid[1:])


@torch.no_grad()
def test_an_image_is_a_clip_of_one_frame(name):
    grid = Grid(GRID.c, 1, 4, 5)
    assert randomised(make(name, grid=grid))(*ask(name, grid=grid)).shape == (B, OUT, *grid[1:])


def test_the_builder_finds_what_it_asks_for(name):
    net = make(name)
    assert isinstance(net.uses, frozenset) and isinstance(net.zero_init, bool)
    assert len(net.blocks) > 0 and all(any(True for _ in block.parameters()) for block in net.blocks)


# ---- the start ----


def video(output):
    """The video's tokens of what a block gives (with those of the text beside them where it has two streams)."""
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def test_a_fresh_network_answers_zero_and_its_blocks_are_the_identity(name):
    net = make(name).eval()
    if not net.zero_init:
        pytest.skip("it does not claim to start at zero")
    seen = []
    for block in net.blocks:
        block.register_forward_hook(lambda _, inputs, output: seen.append(torch.equal(inputs[0], video(output))))
    x, time, cond = ask(name)
    assert (net(x, time, cond) == 0).all()
    assert seen == [True] * len(net.blocks)


def test_the_start_is_a_function_of_the_seed(name):
    a, b, other = make(name, seed=3), make(name, seed=3), make(name, seed=4)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), other.parameters(), strict=True))


# ---- learning ----


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_every_parameter_has_a_gradient(name, positions):
    net = randomised(make(name, positions=positions))
    net(*ask(name)).square().mean().backward()
    for key, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any(), key


@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_every_parameter_moves_within_four_steps(name, positions):
    net = make(name, positions=positions).train()
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(4):
        optimizer.zero_grad()
        (net(*ask(name, seed=10 * step)) - draw(B, OUT, *GRID[1:], seed=step)).square().mean().backward()
        optimizer.step()
    still = [key for key, p in net.named_parameters() if torch.equal(p, before[key])]
    assert not still


def test_gradients_are_the_slopes(name):
    """Along a random direction of input and parameters, in float64."""
    net = randomised(make(name)).double()
    x, time, cond = ask(name)
    x, cond = x.double(), as_type(cond, torch.float64)
    leaves = [*net.parameters(), x.requires_grad_()]
    direction = [draw(*p.shape, seed=i).double() for i, p in enumerate(leaves)]
    target = draw(B, OUT, *GRID[1:], seed=99).double()

    def loss(step):
        with torch.no_grad():
            for p, d in zip(leaves, direction, strict=True):
                p.add_(d, alpha=step)
        return (net(x, time.double(), cond) * target).sum()

    grads = torch.autograd.grad(loss(0.0), leaves)
    slope = sum((g * d).sum() for g, d in zip(grads, direction, strict=True)).item()
    h = 1e-6
    numeric = (loss(h).item() - loss(-2 * h).item()) / (2 * h)
    assert numeric == pytest.approx(slope, rel=1e-5)


# ---- samples keep apart ----


@torch.no_grad()
def test_a_sample_alone_and_in_a_batch(name):
    net = randomised(make(name))
    x, time, cond = ask(name, b=3)
    together = net(x, time, cond)
    for i in range(3):
        assert torch.allclose(net(x[i : i + 1], time[i : i + 1], only(cond, i))[0], together[i], atol=1e-5)


@torch.no_grad()
def test_a_spoilt_sample_spoils_nobody_else(name):
    net = randomised(make(name))
    x, time, cond = ask(name, b=3)
    clean = net(x, time, cond)
    x[1], time[1] = torch.nan, torch.nan
    for part in (cond.vector, cond.tokens, cond.channels):
        if part is not None:
            part[1] = torch.nan
    spoilt = net(x, time, cond)
    assert torch.allclose(spoilt[[0, 2]], clean[[0, 2]], atol=1e-5) and spoilt[1].isnan().all()


# ---- what it depends on ----


def moved(a, b):
    return ((a - b).norm() / b.norm()).item()


@torch.no_grad()
def test_it_sees_every_frame_and_every_place(name):
    net = randomised(make(name))
    x, time, cond = ask(name)
    y = net(x, time, cond)
    for t in range(GRID.t):
        changed = x.clone()
        changed[:, :, t, t + 1, 2] += 1
        assert moved(net(changed, time, cond), y) > 1e-4


@torch.no_grad()
def test_it_sees_the_time_and_the_condition(name):
    net = randomised(make(name))
    x, time, cond = ask(name)
    y = net(x, time, cond)
    assert moved(net(x, time + 0.01, cond), y) > 1e-3, "neighbouring times must be told apart"
    for route in ("vector", "tokens", "channels"):
        if getattr(cond, route) is not None:
            other = replace(cond, **{route: getattr(cond, route).flip(0)})
            assert moved(net(x, time, other), y) > 1e-3, route


@torch.no_grad()
@pytest.mark.parametrize("name", with_route("tokens"))
def test_text_that_is_masked_is_not_seen(name):
    net = randomised(make(name))
    x, time, cond = ask(name)
    y = net(x, time, cond)
    noise = replace(cond, tokens=torch.where(cond.mask[..., None], cond.tokens, draw(*cond.tokens.shape, seed=50)))
    assert torch.allclose(net(x, time, noise), y, atol=1e-6)
    longest = int(cond.mask.sum(1).max())
    shorter = replace(cond, tokens=cond.tokens[:, :longest], mask=cond.mask[:, :longest])
    assert torch.allclose(net(x, time, shorter), y, atol=1e-5), "padding"
    everything = replace(cond, mask=torch.ones_like(cond.mask))
    assert torch.allclose(net(x, time, everything), net(x, time, replace(cond, mask=None)), atol=1e-5)
    assert moved(net(x, time, everything), y) > 1e-4


@pytest.mark.parametrize("name", with_route("tokens"))
def test_text_of_another_width_or_none_at_all_is_refused(name):
    net = make(name)
    x, time, cond = ask(name)
    for tokens in (None, cond.tokens[..., :-1]):
        with pytest.raises(ValueError, match=f"text tokens {TEXT} wide"):
            net(x, time, replace(cond, tokens=tokens))


@pytest.mark.parametrize("name", with_route("channels"))
def test_channels_that_do_not_fit_or_none_at_all_are_refused(name):
    net = make(name)
    x, time, cond = ask(name)
    for channels in (None, cond.channels[:, :-1], cond.channels[..., :-1]):
        with pytest.raises(ValueError, match=f"the network was built for {Grid(CHANNELS, *GRID[1:])}"):
            net(x, time, replace(cond, channels=channels))


@torch.no_grad()
@pytest.mark.parametrize("name", with_route("channels"))
def test_channels_say_nothing_at_first_and_are_seen_where_they_lie(name):
    """A network trained without them answers as before; then each frame's channels matter."""
    net = randomised(make(name))
    x, time, cond = ask(name)
    y = net(x, time, cond)
    for t in range(GRID.t):
        other = cond.channels.clone()
        other[:, :, t, t + 1, 2] += 1
        assert moved(net(x, time, replace(cond, channels=other)), y) > 1e-5
    fresh = make(name)
    new = [key for key, p in fresh.named_parameters() if "channels" in key]
    assert new and all((fresh.get_parameter(key) == 0).all() for key in new)


@torch.no_grad()
def test_frames_exchange_what_they_know(name):
    net = randomised(make(name))
    x, time, cond = ask(name)
    changed = x.clone()
    changed[:, :, 1] += 1
    difference = (net(changed, time, cond) - net(x, time, cond)).abs().amax(dim=(0, 1, 3, 4))
    assert (difference > 1e-5).all()


@torch.no_grad()
def test_a_time_for_every_frame(name):
    net = randomised(make(name))
    x, time, cond = ask(name)
    y = net(x, time, cond)
    per_frame = time[:, None].expand(B, GRID.t)
    assert torch.allclose(net(x, per_frame, cond), y, atol=1e-5)
    other = per_frame.clone()
    other[:, 2] += 0.05
    assert moved(net(x, other, cond), y) > 1e-3


# ---- manners ----


@torch.no_grad()
def test_no_dice_in_eval_and_inputs_left_alone(name):
    net = randomised(make(name))
    x, time, cond = ask(name)
    kept = [x.clone(), time.clone(), each(cond, torch.clone)]
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state()[1], python_random.getstate()
    first, second = net(x, time, cond), net(x, time, cond)
    assert torch.equal(first, second)
    assert torch.equal(x, kept[0]) and torch.equal(time, kept[1])
    for f in fields(Cond):
        part = getattr(cond, f.name)
        assert part is None or torch.equal(part, getattr(kept[2], f.name))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all() and python_random.getstate() == python_state


@pytest.mark.parametrize("positions", ["sincos", "learned", "rotary"])
@torch.no_grad()
def test_the_state_makes_the_round_trip_and_holds_parameters_only(name, positions):
    net, fresh = randomised(make(name, positions=positions)), make(name, positions=positions, seed=5).eval()
    assert set(net.state_dict()) == {key for key, _ in net.named_parameters()}
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(*ask(name)), net(*ask(name)))
    assert torch.equal(copy.deepcopy(net)(*ask(name)), net(*ask(name)))


@torch.no_grad()
def test_bfloat16_is_close_to_float32(name):
    net = randomised(make(name))
    exact = net(*ask(name))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(*ask(name))
    assert moved(mixed.float(), exact) < 0.05
    pure = copy.deepcopy(net).bfloat16()
    x, time, cond = ask(name)
    y = pure(x.bfloat16(), time, as_type(cond, torch.bfloat16))
    assert y.dtype == torch.bfloat16 and moved(y.float(), exact) < 0.1


@torch.no_grad()
def test_float64_is_close_to_float32(name):
    net = randomised(make(name))
    exact = net(*ask(name))
    x, time, cond = ask(name)
    y = net.double()(x.double(), time.double(), as_type(cond, torch.float64))
    assert y.dtype == torch.float64 and torch.allclose(y.float(), exact, atol=1e-4)


# ---- cost ----


def flops(net, name, grid, per_frame=False):
    x, time, cond = ask(name, grid=grid)
    time = time[:, None].expand(B, grid.t) if per_frame else time
    with FlopCounterMode(display=False) as counter:
        net(x.to("meta"), time.to("meta"), each(cond, lambda part: part.to("meta")))
    return counter.get_total_flops()


def test_conditioning_costs_the_same_however_many_tokens(name):
    """Times per frame cost t - 1 conditionings more than a time per sample, and no token adds to that."""
    with torch.device("meta"):
        net = make(name)
    extra = [
        flops(net, name, grid, per_frame=True) - flops(net, name, grid)
        for grid in (Grid(GRID.c, 3, 4, 5), Grid(GRID.c, 3, 8, 10), Grid(GRID.c, 5, 4, 5))
    ]
    assert extra[0] == extra[1] > 0
    assert extra[2] == 2 * extra[0]


# ---- the same by other means ----


def with_setting(setting):
    return [n for n in NAMES if setting in BACKBONES[n].settings]


@pytest.mark.parametrize("per_frame", [False, True])
@pytest.mark.parametrize("name", with_setting("recompute"))
def test_recomputed_activations_change_nothing(name, per_frame):
    nets = [randomised(make(name, recompute=recompute)).train() for recompute in (False, True)]
    x, time, cond = ask(name)
    time = time[:, None].expand(B, GRID.t) if per_frame else time
    results, runs = [], []
    for net in nets:
        count = []
        for block in net.blocks:
            block.register_forward_pre_hook(lambda *_, count=count: count.append(1))
        y = net(x, time, cond)
        y.square().mean().backward()
        results.append([y, *(p.grad for p in net.parameters())])
        runs.append(len(count))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert runs[1] == 2 * runs[0] == 2 * len(nets[0].blocks)


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_compiled_blocks_answer_the_same(name, positions):
    x, time, cond = ask(name)
    results = []
    for compiled in (False, True):
        net = randomised(make(name, positions=positions, attention="auto")).train()
        keys = list(net.state_dict())
        for block in net.blocks:
            if compiled:
                block.compile()
        y = net(x, time, cond)
        y.square().mean().backward()
        assert list(net.state_dict()) == keys
        results.append([y.detach(), *(p.grad for p in net.parameters())])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)
