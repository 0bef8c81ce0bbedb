"""Attention to a text in blocks of any steering: by hand in float64, against PixArt's block, and where plans look."""

import math
from functools import partial

import pytest
import torch

import zoo  # noqa: F401
from vidiff.building.meeting import check_attention
from vidiff.registry import build
from vidiff.types import Cond, CondSpec, Grid
from zoo.layers.adaln import AdaLNBlock
from zoo.layers.adaln_single import SingleBlock
from zoo.layers.cross import CrossBlock

GRID, DIM, HEADS, LENGTH, TOKENS = Grid(5, 3, 2, 4), 12, 3, 7, 9


def drawn(module):
    for i, p in enumerate(module.parameters()):
        torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(i))
    return module.double().eval()


def numbers(*shape, seed=3):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(name, **settings):
    net = build(
        "backbone",
        {"name": name, "dim": 24, "depth": 4, "num_heads": 2, **settings},
        grid=GRID,
        out_channels=5,
        cond=CondSpec(tokens=TOKENS, length=LENGTH),
        attention=build("attention", "math"),
        positions=partial(build, "positions", "rotary"),
    )
    return drawn(net)


@torch.no_grad()
def test_what_a_block_adds_is_the_formula_written_out():
    """Head by head and query by query; masked words are left out of every sum."""
    block = drawn(CrossBlock(DIM, HEADS, build("attention", "sdpa"), qk_norm="none"))
    x, text = numbers(2, 3, 4, DIM), numbers(2, LENGTH, DIM, seed=4)
    mask = torch.arange(LENGTH) < torch.tensor([[4], [LENGTH]])
    cross, each = block.cross, DIM // HEADS
    added = torch.zeros_like(x)
    for b in range(2):
        kv = text[b, mask[b]] @ cross.kv.weight.T + cross.kv.bias
        keys, values = kv[:, :DIM], kv[:, DIM:]
        for t in range(3):
            for s in range(4):
                q = cross.q.weight @ x[b, t, s] + cross.q.bias
                heads = []
                for h in range(HEADS):
                    part = slice(h * each, (h + 1) * each)
                    w = torch.softmax(keys[:, part] @ q[part] / math.sqrt(each), 0)
                    heads.append(w @ values[:, part])
                added[b, t, s] = cross.proj.weight @ torch.cat(heads) + cross.proj.bias
    assert torch.allclose(block.look(x, text, mask), x + added, atol=1e-12)


@torch.no_grad()
def test_with_adaln_single_it_is_the_block_of_pixart():
    ours = drawn(CrossBlock(DIM, HEADS, build("attention", "math"), qk_norm="rms", modulation="single"))
    theirs = SingleBlock(DIM, HEADS, build("attention", "math"), qk_norm="rms").double().eval()
    state = ours.state_dict()
    state["table"] = state.pop("adaln.table").reshape(6, DIM)
    theirs.load_state_dict(state)
    x, c, text = numbers(2, 3, 4, DIM), numbers(2, 1, 1, 6 * DIM, seed=5), numbers(2, LENGTH, DIM, seed=6)
    mask = torch.arange(LENGTH) < torch.tensor([[2], [5]])
    expected = theirs(x, c.unflatten(-1, (6, DIM)), None, text, mask)
    assert torch.allclose(ours(x, c, None, text, mask), expected, atol=1e-12)


def test_a_block_that_does_not_read_is_an_adaln_block():
    ours, plain = CrossBlock(DIM, HEADS, None, reads=False), AdaLNBlock(DIM, HEADS, None)
    assert [*ours.state_dict()] == [*plain.state_dict()]


@torch.no_grad()
@pytest.mark.parametrize("modulation", ["zero", "single"])
def test_both_ways_in_hold_the_same_weights_but_for_the_looks(modulation):
    """`reading` changes the way in and nothing else: a network that has its looks silenced answers as one without."""
    context, cross = (network("dit_joint", modulation=modulation, reading=r) for r in ("in_context", "cross"))
    shared = {k: v for k, v in cross.state_dict().items() if ".cross." not in k}
    context.load_state_dict(shared)  # raises where a name or a shape differs
    for look in cross.readers():
        look.reset_to_zero()
    x, time = numbers(2, *GRID), torch.tensor([0.2, 0.9])
    cond = Cond(tokens=numbers(2, LENGTH, TOKENS), mask=torch.zeros(2, LENGTH, dtype=torch.bool))
    assert torch.allclose(cross(x, time, cond), context(x, time, cond), atol=1e-12), "nobody hears anything"
    seen = Cond(tokens=cond.tokens)
    assert not torch.allclose(cross(x, time, seen), context(x, time, seen), atol=1e-3)


PLANS = {
    "interleaved": [True, False] * 2,
    "late_fusion": [True, True, False, False],
    "sequential": [True] * 4,
    "split_heads": [True] * 4,
    "windowed": [True] * 4,
    "strided": [True] * 4,
    "axial": [True, True, False] * 2,
}


@torch.no_grad()
@pytest.mark.parametrize("plan", PLANS)
def test_blocks_that_look_within_frames_read(plan):
    net = network("dit_factorized", plan=plan, depth=len(PLANS[plan]))
    assert [block.cross is not None for block in net.blocks] == PLANS[plan]
    x, time, cond = numbers(2, *GRID), torch.rand(2, 3), Cond(tokens=numbers(2, LENGTH, TOKENS))
    y = net(x, time, cond)
    for look in net.readers():
        look.reset_to_zero()
    assert not torch.allclose(net(x, time, cond), y, atol=1e-3)


@torch.no_grad()
def test_pictures_beside_a_clip_read_as_well():
    net = network("dit_factorized")
    x, time, cond = numbers(2, *GRID), torch.ones(2), Cond(tokens=numbers(2, LENGTH, TOKENS))
    y, other = net(x, time, cond, images=1), x.clone()
    other[:, :, :2] += 1
    assert torch.allclose(net(other, time, cond, images=1)[:, :, 2], y[:, :, 2], atol=1e-12), "the clip is apart"
    assert not torch.allclose(net(x, time, Cond(tokens=-cond.tokens), images=1)[:, :, 2], y[:, :, 2], atol=1e-3)


@pytest.mark.parametrize("name", ["dit_joint", "dit_factorized", "dit_cross", "mmdit", "dit_expert", "uvit"])
def test_a_network_that_reads_says_that_its_attention_gets_masks(name):
    """So that an attention which takes none is refused when the configuration is read, and not in the first step."""

    class TakesNone:
        def refuses(self, device, dtype, head_dim, masked):
            return "attention=takes_none takes no mask. Use attention=sdpa." if masked else None

    net = network(name, **({"depth": 3} if name == "uvit" else {}))
    net.attention = TakesNone()
    run = type("Run", (), {"train": type("Train", (), {"precision": "fp32"})})
    with pytest.raises(ValueError, match="takes no mask"):
        check_attention(run, type("Model", (), {"backbone": net}), "cpu")
