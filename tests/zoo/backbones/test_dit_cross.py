"""Text by cross-attention: what a block is, layouts, masks, cost, refusals."""

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import zoo  # noqa: F401
from vidiff.registry import build
from vidiff.types import Cond, CondSpec, Grid
from zoo.layers.adaln_single import SingleBlock

GRID = Grid(5, 3, 4, 2)


def make(grid=GRID, tokens=6, vector=0, attention="math", positions="sincos", seed=0, **settings):
    node = {"name": "dit_cross", "dim": 48, "depth": 2, "num_heads": 3, **settings}
    net = build(
        "backbone",
        node,
        grid=grid,
        out_channels=7,
        cond=CondSpec(vector=vector, tokens=tokens),
        attention=build("attention", attention),
        positions=partial(build, "positions", positions),
    )
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=random))
    return net.eval()


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("norm", ["layer", "rms"])
@pytest.mark.parametrize("cross_norm", [False, True])
def test_a_block_is_its_formula(norm, cross_norm):
    """x + gate attn(mod(x)), then + cross(x, text) bare, then + gate mlp(mod(x)), in float64."""
    torch.manual_seed(0)
    block = SingleBlock(
        12, 3, build("attention", "math"), norm=norm, qk_norm="rms_across", cross_norm=cross_norm
    ).double()
    for p in block.parameters():
        p.copy_(torch.randn_like(p) * 0.3)
    x, shared, text = draw(2, 3, 5, 12).double(), draw(2, 1, 1, 6, 12, seed=2).double(), draw(2, 4, 12, seed=3).double()

    def plain(v):
        if norm == "rms":
            return v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return (v - v.mean(-1, keepdim=True)) / (v.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    def rms(v, weight):
        return v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight

    def attend(q, k, v):  # (B,N,12) each, 3 heads of 4
        q, k, v = (z.unflatten(-1, (3, 4)).transpose(1, 2) for z in (q, k, v))
        return ((q @ k.mT / 2).softmax(-1) @ v).transpose(1, 2).flatten(2)

    sa, ca, ga, sm, cm, gm = (shared + block.table).unbind(-2)
    q, k, v = block.attn.qkv((plain(x) * (1 + ca) + sa).flatten(1, 2)).chunk(3, -1)
    y = block.attn.proj(attend(rms(q, block.attn.q_norm.weight), rms(k, block.attn.k_norm.weight), v))
    x1 = x + ga * y.reshape(x.shape)
    cross = block.cross
    h = x1.flatten(1, 2)
    if cross_norm:
        h = torch.nn.functional.layer_norm(h, (12,), block.cross_norm.weight, block.cross_norm.bias, 1e-6)
    k, v = cross.kv(text).chunk(2, -1)
    y = cross.proj(attend(rms(cross.q(h), cross.q_norm.weight), rms(k, cross.k_norm.weight), v))
    x2 = x1 + y.reshape(x.shape)
    expected = x2 + gm * block.mlp(plain(x2) * (1 + cm) + sm)
    assert torch.allclose(block(x, shared, None, text, None), expected, atol=1e-11)


@torch.no_grad()
def test_layouts_reach_what_they_say():
    """Frames on their own do not meet; in the factorized layout they do; a text is seen by every frame."""
    x, time, cond = draw(1, *GRID), torch.tensor([0.4]), Cond(tokens=draw(1, 4, 6))
    moved = x.clone()
    moved[:, :, 1] += 1
    for layout, meet in (("space", False), ("factorized", True), ("joint", True)):
        net = make(layout=layout)
        change = (net(moved, time, cond) - net(x, time, cond)).abs().amax(dim=(0, 1, 3, 4))
        assert change[1] > 1e-3 and ((change[[0, 2]] > 1e-5).all() if meet else (change[[0, 2]] == 0).all())
        other = Cond(tokens=draw(1, 4, 6, seed=5))
        assert ((net(x, time, other) - net(x, time, cond)).abs().amax(dim=(0, 1, 3, 4)) > 1e-4).all()


def test_temporal_blocks_do_not_see_the_text():
    net = make(layout="factorized", depth=4)
    assert net.plan == ["space", "time", "space", "time"]
    assert [block.cross is not None for block in net.blocks] == [True, False, True, False]
    with pytest.raises(ValueError, match=r"depth=3 does not split into spatial and temporal blocks. Use depth=4"):
        make(layout="factorized", depth=3)


@torch.no_grad()
def test_without_text_it_is_a_network_without_cross_attention():
    net = make(tokens=0)
    assert not [key for key in net.state_dict() if "cross" in key or "text" in key]
    assert net(draw(2, *GRID), torch.tensor([0.2, 0.9]), Cond()).shape == (2, 7, 3, 4, 2)


@pytest.mark.parametrize("layout", ["joint", "factorized"])
def test_text_keys_cost_the_same_however_large_the_video(layout):
    """Twice the text costs the projection and the keys once per sample, and its scores once per token."""

    def flops(grid, length):
        with torch.device("meta"):
            net = make_meta(layout)
            with FlopCounterMode(display=False) as counter:
                net(torch.zeros(2, *grid), torch.zeros(2), Cond(tokens=torch.zeros(2, length, 6)))
        return counter.get_total_flops()

    def make_meta(layout):
        return build(
            "backbone", {"name": "dit_cross", "dim": 48, "depth": 2, "num_heads": 3, "layout": layout}, grid=GRID,
            out_channels=7, cond=CondSpec(tokens=6), attention=build("attention", "math"),
            positions=partial(build, "positions", "none"),
        )  # fmt: skip

    looking = 2 if layout == "joint" else 1  # blocks
    for grid in (GRID, Grid(5, 5, 6, 4)):
        tokens = grid.t * grid.h * grid.w
        once = 2 * 2 * (6 * 48 + 48 * 48 + looking * 2 * 48 * 48)  # caption projection, keys and values
        scores = 2 * 2 * looking * 2 * tokens * 48
        assert flops(grid, 9) - flops(grid, 4) == 5 * (once + scores)


def test_an_attention_of_neighbours_is_refused():
    net = make(attention={"name": "window", "radius": 3})
    with pytest.raises(ValueError, match="attention Window is local"):
        net.check(GRID)
    make(tokens=0, attention={"name": "window", "radius": 3}).check(GRID)
