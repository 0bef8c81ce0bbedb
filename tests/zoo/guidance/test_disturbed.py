"""Guidance away from a disturbed network: pag and stg. Which rows are disturbed, and into what."""

import pytest
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import zoo.guidance  # noqa: F401
from tests.contracts.test_backbone import ask, make, randomised
from vidiff.blocks import Rows
from vidiff.diffuser import Diffuser
from vidiff.registry import BACKBONES, build
from vidiff.types import join

PLANS = ("late_fusion", "sequential", "split_heads", "axial", "windowed", "strided")
NETS = [(c.name, {}) for c in BACKBONES if c.name.islower() and not getattr(c.target, "exact", False)] + [
    ("dit_factorized", dict(plan=plan, depth=6)) for plan in PLANS
]
STREAMS = [(name, settings) for name, settings in NETS if getattr(BACKBONES[name].target, "streams", 0)]
each_net = pytest.mark.parametrize(("name", "settings"), NETS, ids=lambda x: x if isinstance(x, str) else x.get("plan"))
each_stack = pytest.mark.parametrize(
    ("name", "settings"), STREAMS, ids=lambda x: x if isinstance(x, str) else x.get("plan")
)


def together(name, k=3):
    """k branches of two rows each, all under the same condition, as Diffuser asks for them."""
    x, time, cond = ask(name)
    return torch.cat([x] * k), torch.cat([time] * k), join([cond] * k), Rows(2 * k, x.device)


class SelfOnly:
    """Every query gets its own value, unless it looks at something shorter: a text."""

    def __call__(self, q, k, v, mask=None):
        return v[:, :, -q.shape[2] :] if k.shape[2] >= q.shape[2] else scaled_dot_product_attention(q, k, v, mask)

    def refuses(self, device, dtype, head_dim, masked):
        return None


@torch.no_grad()
@each_net
def test_pag_gives_its_rows_their_own_values_and_leaves_the_others_alone(name, settings, monkeypatch):
    net = randomised(make(name, **settings))
    pag = build("guidance", {"name": "pag", "blocks": list(range(len(net.blocks)))})
    *inputs, rows = together(name)
    plain = net(*inputs)
    with pag.disturb(net, rows, range(2, 4)):
        disturbed = net(*inputs)
    for module in net.modules():
        if hasattr(module, "attention") and module is not net:
            monkeypatch.setattr(module, "attention", SelfOnly())
    oracle = net(*inputs)
    assert torch.equal(disturbed[:2], plain[:2]) and torch.equal(disturbed[4:], plain[4:])
    assert torch.allclose(disturbed[2:4], oracle[2:4], atol=1e-5)
    assert (oracle - plain).abs().max() > 1e-2


class Pass(nn.Module):
    """In the place of a block that is not there; `skip` and `cross` are what backbones ask a block about."""

    def __init__(self, streams, block):
        super().__init__()
        self.streams = streams
        self.skip, self.cross = (getattr(block, name, None) for name in ("skip", "cross"))

    def forward(self, *inputs):
        return inputs[0] if self.streams == 1 else inputs[: self.streams]


@torch.no_grad()
@each_stack
@pytest.mark.parametrize("which", [(0,), (1, -1)])
def test_stg_skips_blocks_for_its_rows_and_leaves_the_others_alone(name, settings, which):
    net = randomised(make(name, **settings))
    blocks = sorted({i % len(net.blocks) for i in which})
    stg = build("guidance", {"name": "stg", "blocks": blocks})
    *inputs, rows = together(name)
    plain = net(*inputs)
    with stg.disturb(net, rows, range(2, 4)):
        disturbed = net(*inputs)
    assert torch.equal(net(*inputs), plain), "the blocks are back"
    for i in blocks:
        net.blocks[i] = Pass(net.streams, net.blocks[i])
    oracle = net(*inputs)
    assert torch.equal(disturbed[:2], plain[:2]) and torch.equal(disturbed[4:], plain[4:])
    assert torch.allclose(disturbed[2:4], oracle[2:4], atol=1e-5)
    assert (oracle - plain).abs().max() > 1e-2


def bare(monkeypatch, objective="rectified_flow"):
    """A random Diffuser whose backbone takes a vector only, and the list of its calls' batch sizes."""
    monkeypatch.setattr(BACKBONES["dit_factorized"].target, "uses", frozenset({"vector"}))
    objective, calls = build("objective", objective), []
    net = make("dit_factorized", out=6 * objective.outputs)
    net.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    tokenizer = build("tokenizer", {"name": "tubelet", "size": [1, 1, 1]})
    conditioner = build("conditioner", "label", width=48, num_classes=5)
    return randomised(Diffuser(tokenizer, conditioner, net, objective)), calls


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pag", "stg"])
@pytest.mark.parametrize("inner", ["none", {"name": "cfg", "scale": 3.0}])
@pytest.mark.parametrize("objective", ["rectified_flow", "iddpm"])
def test_one_call_of_the_network_and_the_formula(kind, inner, objective, monkeypatch):
    model, calls = bare(monkeypatch, objective)
    guidance = build("guidance", {"name": kind, "scale": 2.5, "blocks": [1], "guidance": inner})
    guidance.check(model)
    x, t = torch.randn(3, 6, 3, 4, 5), torch.tensor([0.9, 0.4, 0.2])
    batch = {"label": torch.tensor([0, 3, 1])}
    found = model.estimator(guidance, batch, 3)(x, t)
    assert calls == [6 if inner == "none" else 9]
    cond = model.conditions(batch, 3)[0]
    believed = model.objective.estimate(model.backbone, x, t, cond)
    guided = model.estimator(build("guidance", inner), batch, 3)(x, t)
    with guidance.disturb(model.backbone, Rows(3, x.device), range(3)):
        disturbed = model.objective.estimate(model.backbone, x, t, cond)
    for a, g, c, d in zip(found, guided, believed, disturbed, strict=True):
        assert torch.allclose(a, g + 1.5 * (c - d), atol=1e-4)
        assert not torch.allclose(c, d, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["pag", "stg"])
def test_scale_one_is_the_inner_guidance_in_bits_at_its_cost(kind, monkeypatch):
    model, calls = bare(monkeypatch)
    x, t, batch = torch.randn(2, 6, 3, 4, 5), torch.full((2,), 0.5), {"label": torch.tensor([0, 3])}
    nodes = [{"name": kind, "scale": 1.0, "guidance": "cfg"}, "cfg"]
    one, other = (model.estimator(build("guidance", node), batch, 2)(x, t) for node in nodes)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)) and calls == [4, 4]


def test_what_cannot_be_disturbed_is_refused(monkeypatch):
    model, _ = bare(monkeypatch)
    for kind in ("pag", "stg"):
        with pytest.raises(ValueError, match="no block 4: the backbone has 4, 0 to 3"):
            build("guidance", {"name": kind, "blocks": [4]}).check(model)
    model.backbone = make("unet3d")
    build("guidance", "pag").check(model)  # the middle has attention
    with pytest.raises(ValueError, match="blocks of UNet3D change sizes"):
        build("guidance", "stg").check(model)
    with pytest.raises(ValueError, match="call no self-attention"):
        build("guidance", {"name": "pag", "blocks": [0]}).check(model)


def test_a_network_that_fails_gets_its_blocks_back():
    net = make("dit_joint")
    before, x = list(net.blocks), ask("dit_joint")
    for kind in ("pag", "stg"):
        attention = [m.attention for m in net.modules() if hasattr(m, "attention")]
        with pytest.raises(RuntimeError), build("guidance", kind).disturb(net, Rows(2, x[0].device), range(1)):
            raise RuntimeError
        assert all(a is b for a, b in zip(net.blocks, before, strict=True))
        assert attention == [m.attention for m in net.modules() if hasattr(m, "attention")]
