"""In-context tokens: masked ones change nothing, frames keep their own modulation, tokens take the mean."""

from functools import partial

import torch

import zoo.attention
import zoo.backbones
import zoo.positions  # noqa: F401
from vidiff.registry import build
from vidiff.types import Cond, CondSpec, Grid
from zoo.layers.incontext import keys_kept, spread, unturned

GRID = Grid(5, 3, 2, 4)


def joint(tokens, positions="rotary"):
    torch.manual_seed(0)
    net = build(
        "backbone",
        {"name": "dit_joint", "dim": 24, "depth": 2, "num_heads": 2},
        grid=GRID,
        out_channels=5,
        cond=CondSpec(tokens=tokens, length=6 if tokens else 0),
        attention=build("attention", "sdpa"),
        positions=partial(build, "positions", positions),
    )
    return net.eval()


@torch.no_grad()
def test_when_all_tokens_are_masked_it_is_the_network_without_them():
    """The same weights, for a time per sample and a time per frame."""
    told = joint(9)
    for p in told.parameters():
        p.normal_(std=0.2, generator=torch.Generator().manual_seed(p.numel()))
    plain = joint(0)
    plain.load_state_dict({k: v for k, v in told.state_dict().items() if not k.startswith("text.")})
    x, tokens = torch.randn(2, *GRID), torch.randn(2, 6, 9)
    for time in (torch.tensor([0.2, 0.9]), torch.rand(2, GRID.t)):
        expected = plain(x, time, Cond())
        nothing = told(x, time, Cond(tokens=tokens, mask=torch.zeros(2, 6, dtype=torch.bool)))
        everything = told(x, time, Cond(tokens=tokens))
        assert torch.allclose(nothing, expected, atol=1e-5)
        assert not torch.allclose(everything, expected, atol=1e-2)


def test_each_token_is_steered_by_its_frame_and_those_of_a_condition_by_the_mean():
    m = torch.tensor([1.0, 4.0, 7.0]).reshape(1, 3, 1, 1)
    assert spread(m, 6, 2).flatten().tolist() == [1, 1, 4, 4, 7, 7, 4, 4]
    assert spread(m[:, :1], 6, 2).shape == (1, 1, 1), "one for all is not spread out"


def test_tokens_of_a_condition_are_not_turned_and_the_video_is_always_seen():
    cos, sin = unturned((torch.full((3, 4), 0.6), torch.full((3, 4), 0.8)), 2)
    assert cos[:, 0].tolist() == [0.6000000238418579] * 3 + [1, 1] and (sin[3:] == 0).all() and sin.shape == (5, 4)
    assert keys_kept(torch.tensor([[True, False]]), 3).flatten().tolist() == [True, True, True, True, False]
    assert unturned(None, 2) is None and keys_kept(None, 3) is None
