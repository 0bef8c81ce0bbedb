"""AdaLN blocks: the formula written out, the identity at the start, one modulation per sample."""

from functools import partial

import pytest
import torch

import zoo  # noqa: F401
from vidiff.registry import build
from vidiff.types import Cond, CondSpec, Grid
from zoo.layers import adaln
from zoo.layers.adaln import AdaLNBlock, AdaLNHead, Modulation, SharedModulation, modulate
from zoo.layers.norms import NORMS

B, T, S, D = 2, 3, 5, 12


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def block(over="joint", **settings):
    torch.manual_seed(0)
    made = AdaLNBlock(D, 3, build("attention", "math"), over, **settings).double()
    with torch.no_grad():
        for i, p in enumerate(made.parameters()):
            p.copy_(0.3 * draw(*p.shape, seed=i))
    return made


def norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()


def test_modulate_is_shift_plus_scaled_norm():
    x, shift, scale = draw(B, T, S, D).double(), draw(B, 1, 1, D, seed=1).double(), draw(B, T, 1, D, seed=2).double()
    assert torch.allclose(modulate(x, shift, scale), (1 + scale) * norm(x) + shift, atol=1e-12)


@pytest.mark.parametrize("samples", [1, B], ids=["shared", "per_sample"])
def test_a_large_sample_takes_the_same_formula_in_one_pass(monkeypatch, samples):
    monkeypatch.setattr(adaln, "LARGE", T * S * D)
    x, g = draw(B, T, S, D).double().requires_grad_(), draw(B, T, S, D, seed=3).double()
    vectors = [draw(samples, 1, 1, D, seed=i).double().requires_grad_() for i in (1, 2)]
    taken = modulate(x, *vectors)
    assert taken.grad_fn.name() == ("CatBackward0" if samples > 1 else "NativeLayerNormBackward0")
    written = (1 + vectors[1]) * norm(x) + vectors[0]
    assert torch.allclose(taken, written, atol=1e-12)
    for one, other in zip(*(torch.autograd.grad(y, [x, *vectors], g) for y in (taken, written)), strict=True):
        assert torch.allclose(one, other, atol=1e-11)


def test_only_large_samples_with_one_time_and_a_layer_norm_take_it(monkeypatch):
    x, shift, over_time = draw(B, T, S, D).requires_grad_(), draw(B, 1, 1, D), draw(B, T, 1, D)
    assert modulate(x, shift, shift).grad_fn.name() == "AddcmulBackward0"
    monkeypatch.setattr(adaln, "LARGE", 1)
    assert modulate(x, over_time, over_time).grad_fn.name() == "AddcmulBackward0"
    assert modulate(x, shift, shift, NORMS["rms"]).grad_fn.name() == "AddcmulBackward0"


@pytest.mark.parametrize("frames", [1, T])
def test_a_block_is_the_formula(frames):
    net, x, c = block(), draw(B, T, S, D).double(), draw(B, frames, 1, D, seed=7).double()
    turns = draw(T * S, D // 3, seed=8).repeat_interleave(2, -1)[:, : D // 3]
    rotation = turns.cos(), turns.sin()  # of tokens in raster order, frames first
    linear = net.adaln.linear
    a = (torch.nn.functional.silu(c) @ linear.weight.T + linear.bias).split(D, dim=-1)
    h = ((1 + a[1]) * norm(x) + a[0]).reshape(B, T * S, D)
    y = x + a[2] * net.attn(h, rotation).reshape(B, T, S, D)
    y = y + a[5] * net.mlp((1 + a[4]) * norm(y) + a[3])
    assert torch.allclose(net(x, c, rotation), y, atol=1e-10)


REACHED = {
    "joint": {(t, s) for t in range(T) for s in range(S)},
    "space": {(1, s) for s in range(S)},
    "time": {(t, 2) for t in range(T)},
}


@pytest.mark.parametrize(("over", "reached"), REACHED.items())
@torch.no_grad()
def test_tokens_meet_along_their_layout_only(over, reached):
    net, x, c = block(over), draw(B, T, S, D).double(), draw(B, 1, 1, D, seed=7).double()
    changed = x.clone()
    changed[:, 1, 2, 3] += 1
    difference = (net(changed, c) - net(x, c)).abs().amax(dim=(0, 3))
    assert {(t, s) for t, s in (difference > 1e-9).nonzero().tolist()} == reached


def test_the_start_is_the_identity_for_any_condition():
    torch.manual_seed(0)
    net, head = AdaLNBlock(D, 3, build("attention", "math")), AdaLNHead(D, 7)
    x, c = draw(B, T, S, D), draw(B, 1, 1, D, seed=1)
    assert torch.equal(net(x, c), x) and (head(x, c) == 0).all()


def test_small_scales_survive_bfloat16():
    """1 + 0.001 is 1 in bfloat16: the modulation must not be added there."""
    torch.manual_seed(0)
    modulation = Modulation(D, 2)
    with torch.no_grad():
        modulation.linear.bias.fill_(1e-3)
    x, c = draw(B, T, S, D), torch.zeros(B, 1, 1, D)
    with torch.autocast("cpu", torch.bfloat16):
        shift, scale = modulation(c, x.dtype)
        y = modulate(x, torch.zeros_like(shift), scale)
    assert torch.allclose(y / norm(x), torch.tensor(1.001), atol=1e-5)


def test_the_norm_of_choice():
    x, c = draw(B, T, S, D).double(), draw(B, 1, 1, D, seed=7).double()
    rms = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    shift, scale = draw(B, 1, 1, D, seed=1).double(), draw(B, T, 1, D, seed=2).double()
    assert torch.allclose(modulate(x, shift, scale, NORMS["rms"]), (1 + scale) * rms + shift, atol=1e-12)
    for made in (lambda **settings: block(**settings), lambda **settings: AdaLNHead(D, 7, **settings).double()):
        nets = [made(norm=norm) for norm in ("layer", "rms")]
        for net in nets:
            for i, p in enumerate(net.parameters()):
                torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(i))
        centred = x - x.mean(-1, keepdim=True)
        assert torch.allclose(nets[0](centred, c), nets[1](centred, c), atol=1e-9) == isinstance(nets[0], AdaLNHead)
        assert not torch.allclose(nets[0](x, c), nets[1](x, c), atol=1e-3)


def test_adaln_single_is_one_linear_and_a_table_in_each_block():
    """Two blocks told alike but for their tables are two adaLN-Zero blocks whose biases are those tables."""
    torch.manual_seed(0)
    x, c = draw(B, T, S, D).double(), draw(B, 1, 1, D, seed=7).double()
    shared = SharedModulation(D, 6).double()
    weight, tables = draw(6 * D, D, seed=3).double(), draw(2, 6 * D, seed=4).double()
    for table in tables:
        single = AdaLNBlock(D, 3, build("attention", "math"), modulation="single").double()
        zero = AdaLNBlock(D, 3, build("attention", "math")).double()
        zero.load_state_dict(
            {
                **{k: v for k, v in single.state_dict().items() if k != "adaln.table"},
                "adaln.linear.weight": weight,
                "adaln.linear.bias": table,
            }
        )
        shared.linear.weight.data, single.adaln.table.data = weight, table
        torch.testing.assert_close(single(x, shared(c)), zero(x, c), rtol=0, atol=1e-12)


@pytest.mark.parametrize("plan", ["interleaved", "sequential", "split_heads"])
def test_adaln_single_in_a_backbone_starts_at_zero_and_is_asked_once_a_call(plan, monkeypatch):
    calls = []
    asked = SharedModulation.forward
    monkeypatch.setattr(SharedModulation, "forward", lambda self, c: calls.append(c.shape) or asked(self, c))
    wiring = dict(grid=Grid(3, 4, 5, 6), out_channels=3, cond=CondSpec(), attention=build("attention", "math"))
    net = build(
        "backbone", {"name": "dit_factorized", "dim": 24, "depth": 4, "num_heads": 2, "plan": plan, "modulation": "single"},
        positions=partial(build, "positions", "sincos"), **wiring,
    )  # fmt: skip
    assert (net(draw(2, 3, 4, 5, 6), torch.tensor([0.2, 0.7]), Cond()) == 0).all()
    assert calls == [(2, 1, 1, 24)] and all(block.adaln.num == block.vectors for block in net.blocks)
