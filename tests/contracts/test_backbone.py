"""What the house's backbones promise beside vidiff.checks.backbone, which test_checks.py runs on them all.

Here stand the promises that need the house's own attention and positions, and those that a network of one's own does
not make: blocks that begin as the identity, the house's words, blocks that compile.
"""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

import zoo.attention
import zoo.backbones
import zoo.positions  # noqa: F401
from vidiff.checks import backbone
from vidiff.checks.backbone import CHANNELS, GRID, LENGTH, OUT, TEXT, B, each
from vidiff.checks.parts import draw, moved, randomised
from vidiff.registry import BACKBONES, Setting, build
from vidiff.types import CondSpec, Grid

NAMES = [c.name for c in BACKBONES if not getattr(c.target, "exact", False)]
"""Those that learn; test_backbone_exact.py has the others."""


def make(name, *, grid=GRID, out=OUT, positions="sincos", attention="sdpa", seed=0, masked=True, **settings):
    """A fresh tiny network of this name, wired as the builder does."""
    component = BACKBONES[name]
    torch.manual_seed(seed)
    given, uses = {**component.tiny, **settings}, getattr(component.target, "uses", frozenset())
    width = given.get("dim", component.settings.get("dim", Setting("dim", int, 0)).default)
    return component.build(
        given,
        grid=grid,
        out_channels=out,
        cond=CondSpec(
            vector=width if "vector" in uses else 0,
            tokens=TEXT if "tokens" in uses else 0,
            length=LENGTH if "tokens" in uses else 0,
            channels=CHANNELS if "channels" in uses else 0,
            masked=masked,
        ),
        attention=build("attention", attention),
        positions=partial(build, "positions", positions),
    )


def ask(name, b=B, grid=GRID, seed=2):
    """x (b,*grid), time (b,), a condition."""
    return backbone.ask(BACKBONES[name], b, grid, seed)


def with_route(route):
    return [n for n in NAMES if route in getattr(BACKBONES[n].target, "uses", ())]


def only(cond, *rows):
    return each(cond, lambda part: part[list(rows)])


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


# ---- masks ----


@pytest.mark.parametrize("reader", with_route("tokens"))
@torch.no_grad()
def test_an_attention_is_asked_for_masks_only_where_tokens_have_one(reader):
    net = randomised(make(reader, masked=False))
    assert make(reader).masked and not net.masked
    seen, forward = [], net.attention.__class__.__call__

    def watched(self, q, k, v, mask=None):
        seen.append(mask)
        return forward(self, q, k, v, mask)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(net.attention.__class__, "__call__", watched)
        x, time, cond = ask(reader)
        net(x, time, replace(cond, mask=None))
    assert seen and all(mask is None for mask in seen)


# ---- positions by name ----


@pytest.mark.parametrize("positions", ["none", "sincos", "learned", "rotary"])
@torch.no_grad()
def test_any_positions_on_its_own_grid_and_another(name, positions):
    net = randomised(make(name, positions=positions))
    for grid in (GRID, Grid(GRID.c, 5, 6, 3)):
        assert net(*ask(name, grid=grid)).shape == (B, OUT, *grid[1:])


def test_every_parameter_has_a_gradient_those_of_learned_positions_too(name):
    net = randomised(make(name, positions="learned"))
    net(*ask(name)).square().mean().backward()
    for key, p in net.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and (p.grad != 0).any(), key


def test_every_parameter_moves_within_four_steps_those_of_learned_positions_too(name):
    net = make(name, positions="learned").train()
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.0)
    for step in range(4):
        optimizer.zero_grad()
        (net(*ask(name, seed=10 * step)) - draw(B, OUT, *GRID[1:], seed=step)).square().mean().backward()
        optimizer.step()
    still = [key for key, p in net.named_parameters() if torch.equal(p, before[key])]
    assert not still


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@torch.no_grad()
def test_the_state_makes_the_round_trip_and_holds_parameters_only(name, positions):
    net, fresh = randomised(make(name, positions=positions)), make(name, positions=positions, seed=5).eval()
    assert set(net.state_dict()) == {key for key, _ in net.named_parameters()}
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(*ask(name)), net(*ask(name)))
    assert torch.equal(copy.deepcopy(net)(*ask(name)), net(*ask(name)))


@torch.no_grad()
def test_a_hundredth_of_the_time_is_seen(name):
    net = randomised(make(name))
    x, time, cond = ask(name)
    assert moved(net(x, time + 0.01, cond), net(x, time, cond)) > 1e-3


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


@pytest.mark.parametrize("name", with_route("channels"))
def test_channels_say_nothing_at_first(name):
    """A network trained without them answers as before."""
    fresh = make(name)
    new = [key for key, p in fresh.named_parameters() if "channels" in key]
    assert new and all((fresh.get_parameter(key) == 0).all() for key in new)


# ---- the house's words ----


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


# ---- the same by other means ----


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
