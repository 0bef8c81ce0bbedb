"""The joint transformer: positions, images, conditions, refusals."""

from functools import partial

import pytest
import torch

import zoo  # noqa: F401
from vidiff.registry import build
from vidiff.types import Cond, CondSpec, Grid

GRID = Grid(5, 3, 4, 2)


def make(positions="none", grid=GRID, vector=0, attention="math", **settings):
    torch.manual_seed(0)
    node = {"name": "dit_joint", "dim": 48, "depth": 2, "num_heads": 2, **settings}
    net = build(
        "backbone",
        node,
        grid=grid,
        out_channels=7,
        cond=CondSpec(vector=vector),
        attention=build("attention", attention),
        positions=partial(build, "positions", positions),
    )
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.15 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return net.eval()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("positions", ["none", "sincos", "learned", "rotary"])
@torch.no_grad()
def test_only_positions_tell_frames_and_places_apart(positions):
    """Without them a permutation of tokens permutes the answer; with them it does not."""
    net, x, time = make(positions), draw(2, *GRID), torch.tensor([0.3, 0.8])
    y = net(x, time, Cond())
    for permuted in ((2, [2, 0, 1]), (3, [1, 3, 0, 2]), (4, [1, 0])):
        axis, order = permuted
        order = torch.tensor(order)
        same = torch.allclose(net(x.index_select(axis, order), time, Cond()), y.index_select(axis, order), atol=1e-5)
        assert same == (positions == "none")


@torch.no_grad()
def test_tokens_are_in_raster_order():
    """One token at a time, through a network that passes tokens on: they come out where they went in."""
    net = make(depth=1)
    for p in net.blocks.parameters():
        p.zero_()
    net.head.adaln.linear.weight.zero_()
    net.head.adaln.linear.bias.zero_()
    x, changed = draw(1, *GRID), draw(1, *GRID)
    changed[0, :, 2, 3, 1] += 1
    places = (net(changed, torch.ones(1), Cond()) - net(x, torch.ones(1), Cond())).abs().sum(dim=(0, 1)).nonzero()
    assert places.tolist() == [[2, 3, 1]]


@torch.no_grad()
def test_an_image_network_has_no_time_axis():
    net = make("sincos", grid=Grid(5, 1, 4, 2))
    assert net.axes == "hw"
    assert net(draw(2, 5, 1, 6, 3), torch.ones(2), Cond()).shape == (2, 7, 1, 6, 3)
    with pytest.raises(ValueError, match=r"built for images.*5x3x4x2"):
        net(draw(2, *GRID), torch.ones(2), Cond())


@torch.no_grad()
def test_every_attention_gives_the_same():
    x, time = draw(2, *GRID), torch.tensor([0.3, 0.8])
    answers = [make("rotary", attention=name)(x, time, Cond()) for name in ("math", "matmul", "sdpa", "auto")]
    assert all(torch.allclose(y, answers[0], atol=1e-5) for y in answers)


def test_the_residual_stream_keeps_the_precision_of_the_weights_under_amp():
    seen = []
    net = make()
    net.blocks[1].register_forward_hook(lambda _, inputs, output: seen.extend([inputs[0].dtype, output.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        net(draw(2, *GRID), torch.ones(2), Cond())
    assert seen == [torch.float32, torch.float32]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (dict(num_heads=5), "dim=48 is not divisible by num_heads=5. Use dim=50 or num_heads=4."),
        (dict(vector=20), "the condition's vector is 20 wide and the network 48. Use dim=20."),
        (
            dict(positions="sincos", dim=40),
            "sincos positions over thw need a dim divisible by 16: dim=40 is not. Use dim=48.",
        ),
    ],
)
def test_impossible_sizes_are_refused_with_their_numbers(settings, text):
    with pytest.raises(ValueError) as error:
        make(**settings)
    assert str(error.value) == text


def test_impossible_inputs_are_refused_with_their_numbers():
    net, time = make(), torch.ones(2)
    with pytest.raises(ValueError, match="built for 5 latent channels; 6x3x4x2 has 6"):
        net(draw(2, 6, 3, 4, 2), time, Cond())
    with pytest.raises(ValueError, match="4 times for 3 frames"):
        net(draw(2, *GRID), torch.ones(2, 4), Cond())
    with pytest.raises(ValueError, match="built without a condition vector"):
        net(draw(2, *GRID), time, Cond(vector=draw(2, 48)))
    with pytest.raises(ValueError, match="built with a condition vector"):
        make(vector=48)(draw(2, *GRID), time, Cond())
