"""`norm: layer | rms` on every transformer: an additive constant on all channels is lost to one and kept by the other."""

from functools import partial

import pytest
import torch

import zoo  # noqa: F401
from vidiff.registry import BACKBONES, build
from vidiff.types import Cond, CondSpec, Grid
from zoo.layers.mlp import ACTIVATIONS

TRANSFORMERS = sorted(c.name for c in BACKBONES if c.file.parent.parent.name == "zoo" and "num_heads" in c.settings
                      and "mlp_ratio" in c.settings)  # fmt: skip
GRID = Grid(5, 3, 2, 4)


def network(name, **settings):
    torch.manual_seed(0)
    net = build(
        "backbone", {"name": name, **BACKBONES[name].tiny, **settings}, grid=GRID, out_channels=5,
        cond=CondSpec(tokens=9, length=7), attention=build("attention", "math"),
        positions=partial(build, "positions", "rotary"),
    )  # fmt: skip
    for i, p in enumerate(net.parameters()):
        torch.nn.init.normal_(p, std=0.2, generator=torch.Generator().manual_seed(i))
    return net.double().eval()


def test_all_of_them_are_meant():
    assert {"dit_joint", "dit_factorized", "dit_cross", "dit_expert", "mmdit", "uvit"} <= set(TRANSFORMERS)
    assert {"norm", "qk_norm", "activation"} <= set.intersection(*(set(BACKBONES[n].settings) for n in TRANSFORMERS))
    assert {"gelu", "gelu_tanh"} == set(ACTIVATIONS)


@torch.no_grad()
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_what_blocks_are_given_is_normalised_as_named(name):
    """Tokens plus one number: the first block's attention is given the same with `layer` and something else with
    `rms`; tokens times one number change nothing in either."""
    x, time = torch.randn(2, *GRID, dtype=torch.float64), torch.tensor([0.2, 0.9])
    cond = Cond(tokens=torch.randn(2, 7, 9, dtype=torch.float64))
    for norm in ("layer", "rms"):
        net, given = network(name, norm=norm), []
        block = net.blocks[0]
        attn = block.video.qkv if name == "mmdit" else block.attn.qkv
        attn.register_forward_pre_hook(lambda _, inputs, given=given: given.append(inputs[0]))
        for factor, more in ((1, 0), (1, 3), (1000, 0), (2000, 0)):
            handle = block.register_forward_pre_hook(lambda _, i, f=factor, m=more: (f * i[0] + m, *i[1:]))
            net(x, time, cond)
            handle.remove()
        plain, shifted, large, larger = (y[:, -GRID.t * GRID.h * GRID.w :] if y.ndim == 3 else y for y in given)
        assert torch.allclose(large, larger, atol=1e-5)
        assert torch.allclose(plain, shifted, atol=1e-4) == (norm == "layer")


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_choice_is_a_different_network(name):
    x, time = torch.randn(2, *GRID, dtype=torch.float64), torch.tensor([0.2, 0.9])
    cond = Cond(tokens=torch.randn(2, 7, 9, dtype=torch.float64))
    choices = [{}] + [{k: v} for k, vs in {"norm": ["rms"], "qk_norm": ["none", "rms", "layer", "rms_across"],
               "activation": ["gelu_tanh", "swiglu"]}.items() for v in vs]  # fmt: skip
    defaults = {k: s.default for k, s in BACKBONES[name].settings.items()}
    answers = [network(name, **c)(x, time, cond) for c in choices if all(defaults[k] != v for k, v in c.items())]
    assert len(answers) == 7
    for i, a in enumerate(answers):
        assert a.isfinite().all() and not any(torch.allclose(a, b, atol=1e-5) for b in answers[:i])
