"""U-ViT: its formula written out with its own weights, its skips, its tokens, its refusals."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

import zoo  # noqa: F401
from vidiff.registry import build
from vidiff.types import Cond, CondSpec, Grid

GRID, D, HEADS, TEXT = Grid(5, 3, 4, 2), 48, 3, 7


def make(spec=None, positions="sincos", depth=5, attention="math", **settings):
    torch.manual_seed(0)
    node = {"name": "uvit", "dim": D, "depth": depth, "num_heads": HEADS, **settings}
    net = build(
        "backbone",
        node,
        grid=GRID,
        out_channels=6,
        cond=spec or CondSpec(vector=D, tokens=TEXT, length=4),
        attention=build("attention", attention),
        positions=partial(build, "positions", positions),
    )
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return net.double().eval()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def told(b=2):
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])[:b]
    return Cond(vector=draw(b, D, seed=1), tokens=draw(b, 4, TEXT, seed=2), mask=mask)


def linear(x, layer):
    return x @ layer.weight.T + (0 if layer.bias is None else layer.bias)


def norm(x, layer):
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    return x * layer.weight + layer.bias


def block(net, x, keep):
    q, k, v = (
        y.unflatten(-1, (HEADS, D // HEADS)).transpose(1, 2)
        for y in linear(norm(x, net.norm1), net.attn.qkv).chunk(3, -1)
    )
    scores = q @ k.transpose(-1, -2) / (D // HEADS) ** 0.5
    weights = scores.masked_fill(~keep[:, None, None], -torch.inf).softmax(-1)
    x = x + linear((weights @ v).transpose(1, 2).flatten(2), net.attn.proj)
    return x + linear(F.gelu(linear(norm(x, net.norm2), net.mlp.fc1)), net.mlp.fc2)


@torch.no_grad()
def test_it_is_the_formula_of_the_paper():
    """Tokens [time, class, text, patches]; x1 x2 | x3 | x4 = f(W[x3, x2]), x5 = f(W[x4, x1])."""
    net, x, time, cond = make(), draw(2, *GRID), torch.tensor([0.2, 0.9]).double(), told()
    y = net(x, time, cond)
    coords = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(2)).float().reshape(3, 4, 2, 3)
    patches = linear(x.flatten(2).mT, net.embed) + net.positions.added(coords).flatten(0, 2)
    first = torch.stack([net.time(time), cond.vector], dim=1) + net.places
    h = torch.cat([first, linear(cond.tokens, net.text), patches], dim=1)
    keep = torch.cat([torch.ones(2, 2), cond.mask, torch.ones(2, 24)], dim=1).bool()
    b = net.blocks
    h1 = block(b[0], h, keep)
    h2 = block(b[1], h1, keep)
    h3 = block(b[2], h2, keep)
    h4 = block(b[3], linear(torch.cat([h3, h2], -1), b[3].skip), keep)
    h5 = block(b[4], linear(torch.cat([h4, h1], -1), b[4].skip), keep)
    expected = linear(norm(h5[:, 6:], net.norm), net.head).mT.unflatten(-1, GRID[1:])
    assert torch.allclose(y, expected, atol=1e-10)


def test_the_second_half_has_the_skips():
    assert [b.skip is not None for b in make(depth=7).blocks] == [False] * 4 + [True] * 3


@torch.no_grad()
def test_times_per_frame_are_told_to_their_frames():
    """Without positions, frames that differ in nothing but their times change places with them."""
    net, x = make(CondSpec(), positions="none"), draw(2, 5, 1, 4, 2).expand(2, *GRID)
    time, order = torch.tensor([[0.2, 0.5, 0.9], [0.4, 0.1, 0.3]]).double(), [2, 0, 1]
    y = net(x, time, Cond())
    assert torch.allclose(net(x, time[:, order], Cond()), y[:, :, order], atol=1e-10)
    assert not torch.allclose(y[:, :, 0], y[:, :, 1], atol=1e-3)
    one = net(x, time[:, 0], Cond())
    assert torch.allclose(net(x, time[:, :1].expand(2, 3), Cond()), one, atol=1e-12)


@torch.no_grad()
def test_text_that_is_left_out_is_not_seen():
    net, x, time, cond = make(positions="rotary"), draw(2, *GRID), torch.tensor([0.2, 0.9]).double(), told()
    changed = cond.tokens.masked_fill(~cond.mask[..., None], 9.0)
    same = net(x, time, Cond(vector=cond.vector, tokens=changed, mask=cond.mask))
    assert torch.equal(same, net(x, time, cond))
    seen = net(x, time, Cond(vector=cond.vector, tokens=changed, mask=torch.ones_like(cond.mask)))
    assert not torch.allclose(seen, same, atol=1e-3)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (dict(depth=4), "depth=4 has no middle block for skips to pass. Use depth=5."),
        (dict(num_heads=5), "dim=48 is not divisible by num_heads=5. Use dim=50 or num_heads=4."),
        (
            dict(attention="window"),
            "time is a token for all to see here, and attention Window is local. Use attention=sdpa.",
        ),
        (dict(spec=CondSpec(vector=20)), "the condition's vector is 20 wide and the network 48. Use dim=20."),
    ],
)
def test_impossible_sizes_are_refused_with_their_numbers(settings, text):
    with pytest.raises(ValueError) as error:
        make(**settings)
    assert str(error.value) == text
