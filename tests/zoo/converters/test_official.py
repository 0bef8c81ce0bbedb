"""What converters share: time turned round exactly, foreign checkpoints refused."""

import pytest
import torch

import zoo  # noqa: F401
from tests.parity.networks import read
from zoo.converters import dit
from zoo.converters.official import heads, rename, side, turn_time
from zoo.layers.embeddings import time_sinusoid


def test_turning_time_is_exact_and_its_own_inverse():
    random = torch.Generator().manual_seed(0)
    state = {
        "time.mlp.0.weight": torch.randn(9, 256, generator=random).double(),
        "head.linear.weight": torch.randn(5, 9, generator=random),
        "head.linear.bias": torch.randn(5, generator=random),
        "embed.weight": torch.randn(9, 4, generator=random),
    }
    turned = turn_time(state)
    t = torch.tensor([0.0, 0.125, 0.75, 1.0])
    before = time_sinusoid(1 - t, 256).double() @ state["time.mlp.0.weight"].T
    after = time_sinusoid(t, 256).double() @ turned["time.mlp.0.weight"].T
    assert torch.allclose(before, after, atol=2e-6)
    assert torch.equal(turned["head.linear.bias"], -state["head.linear.bias"])
    assert torch.equal(turned["embed.weight"], state["embed.weight"])
    again = turn_time(turned)
    assert all(torch.allclose(again[key], state[key], atol=1e-12) for key in state)


def test_a_foreign_checkpoint_is_refused():
    _, state, _ = read("models", "nanosora_a")
    with pytest.raises(ValueError, match=r"and \d+ more\) are not weights of this kind of checkpoint"):
        rename(state, dit.DIT_NAMES)
    _, state, _ = read("models", "dit_a")
    with pytest.raises(ValueError, match=r"'blocks.0.attn.extra.weight' is not a weight"):
        dit.from_official({**state, "blocks.0.attn.extra.weight": torch.zeros(1)})


def test_another_position_table_is_refused():
    _, state, _ = read("models", "dit_a")
    with pytest.raises(ValueError, match=r"pos_embed differs by 0.5 from the fixed sinusoids"):
        dit.from_official({**state, "pos_embed": state["pos_embed"] + 0.5})


def test_what_weights_do_not_tell_is_asked_for():
    assert heads(1152, None) == 16 and heads(64, 4) == 4
    with pytest.raises(ValueError, match="dim=64 is no published size: give num_heads"):
        heads(64, None)
    with pytest.raises(ValueError, match="12 positions do not make a square"):
        side(12)
