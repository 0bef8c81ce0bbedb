"""Multi-head self-attention, normalised queries and keys, the MLP."""

import pytest
import torch
from torch.nn import functional as F

import zoo.attention  # noqa: F401
from vidiff.registry import build
from zoo.layers.attention import SelfAttention, head_dim, rotate
from zoo.layers.mlp import MLP
from zoo.layers.norms import head_norm

B, N, D, HEADS = 2, 7, 12, 3


def layer(**settings):
    torch.manual_seed(0)
    return SelfAttention(D, HEADS, build("attention", "math"), **settings).double()


def test_it_equals_torchs_own_multi_head_attention():
    ours, x = layer(), torch.randn(B, N, D).double()
    theirs = torch.nn.MultiheadAttention(D, HEADS, batch_first=True).double()
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = ours.qkv.weight.data, ours.qkv.bias.data
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    mask = torch.rand(N, N) > 0.3
    mask.fill_diagonal_(True)
    assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-12)
    assert torch.allclose(ours(x, mask=mask), theirs(x, x, x, attn_mask=~mask)[0], atol=1e-12)


def test_rotation_turns_queries_and_keys_not_values():
    ours, x = layer(), torch.randn(B, N, D).double()
    still = torch.ones(N, D // HEADS), torch.zeros(N, D // HEADS)
    same = torch.full((N, D // HEADS), 0.7)
    half = torch.arange(N)[:, None] * torch.ones(D // HEADS)
    assert torch.allclose(ours(x, still), ours(x), atol=1e-12)
    assert torch.allclose(ours(x, (same.cos(), same.sin())), ours(x), atol=1e-6), "one angle for all changes nothing"
    assert not torch.allclose(ours(x, (half.cos(), half.sin())), ours(x), atol=1e-3)


@pytest.mark.parametrize(("kind", "parameters"), [("none", 0), ("rms", 2), ("layer", 4)])
def test_qk_norm(kind, parameters):
    ours, x = layer(qk_norm=kind), torch.randn(B, N, D).double()
    assert len([k for k in ours.state_dict() if "_norm" in k]) == parameters
    with torch.no_grad():
        ours.qkv.weight[: 2 * D] *= 100  # queries and keys a hundred times longer
        ours.qkv.bias[: 2 * D] *= 100
    longer = ours(x)
    with torch.no_grad():
        ours.qkv.weight[: 2 * D] /= 100
        ours.qkv.bias[: 2 * D] /= 100
    assert torch.allclose(longer, ours(x), atol=1e-4) == (kind != "none")


def test_queries_are_normalised_before_they_are_turned():
    """Turned first, a pair would be scaled by two different weights."""
    ours, x = layer(qk_norm="rms"), torch.randn(B, N, D).double()
    torch.nn.init.normal_(ours.q_norm.weight)
    turns = (torch.arange(N)[:, None] * torch.ones(D // HEADS)).double()
    q, k, v = ours.qkv(x).reshape(B, N, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4)
    q, k = (rotate(n(z), (turns.cos(), turns.sin())) for n, z in ((ours.q_norm, q), (ours.k_norm, k)))
    expected = ours.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D))
    assert torch.allclose(ours(x, (turns.cos(), turns.sin())), expected, atol=1e-10)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_head_norms_are_their_formulas_and_keep_the_dtype(kind):
    norm, x = head_norm(kind, 5).double(), torch.randn(2, 3, 4, 5).double()
    torch.nn.init.normal_(norm.weight)
    centred = x - x.mean(-1, keepdim=True) if kind == "layer" else x
    expected = norm.weight * centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(norm(x), expected, atol=1e-12)
    assert norm.float()(x.bfloat16()).dtype == torch.bfloat16


def test_dropout_acts_in_training_only():
    ours, x = layer(dropout=0.5), torch.randn(B, N, D).double()
    assert not torch.equal(ours(x), ours(x))
    assert torch.equal(ours.eval()(x), ours(x))


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_the_mlp_is_its_formula(activation):
    torch.manual_seed(0)
    mlp, x = MLP(5, 11, activation), torch.randn(3, 5)
    h = x @ mlp.fc1.weight.T + mlp.fc1.bias
    if activation == "gelu":
        h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
    else:
        h = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    assert torch.allclose(mlp(x), F.linear(h, mlp.fc2.weight, mlp.fc2.bias), atol=1e-6)


def test_heads_that_do_not_divide_the_width():
    assert head_dim(48, 6) == 8
    with pytest.raises(ValueError) as error:
        head_dim(100, 3)
    assert str(error.value) == "dim=100 is not divisible by num_heads=3. Use dim=102 or num_heads=2."


def test_swiglu_is_its_formula_with_as_many_parameters():
    torch.manual_seed(0)
    mlp, x = MLP(5, 12, "swiglu"), torch.randn(3, 5)
    gate, value = (x @ mlp.fc1.weight.T + mlp.fc1.bias).split(8, dim=-1)
    assert torch.allclose(mlp(x), F.linear(gate * torch.sigmoid(gate) * value, mlp.fc2.weight, mlp.fc2.bias), atol=1e-6)
    weights = {
        kind: sum(p.numel() for p in MLP(48, 192, kind).parameters() if p.ndim == 2) for kind in ("gelu", "swiglu")
    }
    assert weights["gelu"] == weights["swiglu"]
