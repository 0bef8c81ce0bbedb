"""The factorized transformer: its plans, what each of them sees (by gradient), what causal ones cannot see."""

from functools import partial, reduce

import pytest
import torch

import zoo  # noqa: F401
from vidiff.registry import build
from vidiff.types import Cond, CondSpec, Grid
from zoo.backbones.dit_factorized import PLANS, blocks_of
from zoo.layers.attention import rotate

GRID = Grid(5, 3, 4, 2)
WIDE = Grid(3, 5, 4, 3)
"""Neither of its axes divides by the windows below."""
WINDOW = (2, 3, 2)
OWN = ("row", "row", "stride", "time")
DEPTHS = {name: 3 if name == "axial" else 2 for name in PLANS} | {OWN: 4}


def make(positions="none", grid=GRID, **settings):
    torch.manual_seed(0)
    node = {"name": "dit_factorized", "dim": 48, "depth": 4, "num_heads": 2, "window": WINDOW, **settings}
    net = build(
        "backbone",
        node,
        grid=grid,
        out_channels=7,
        cond=CondSpec(),
        attention=build("attention", "math"),
        positions=partial(build, "positions", positions),
    )
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.15 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
    return net.eval()


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


# ---- the plans ----


def test_plans():
    s, t, r, c = ("space",), ("time",), ("row",), ("column",)
    assert blocks_of("interleaved", 6) == [s, t] * 3
    assert blocks_of("late_fusion", 6) == [s] * 3 + [t] * 3
    assert blocks_of("sequential", 5) == [("space", "time")] * 5
    assert blocks_of("split_heads", 5) == [("space", "time")] * 5
    assert blocks_of("axial", 6) == [r, c, t] * 2
    assert blocks_of("windowed", 4) == [("window",), ("shifted",)] * 2
    assert blocks_of("strided", 4) == [("window",), ("stride",)] * 2
    assert blocks_of(["space", "space", "time"], 6) == [s, s, t] * 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (dict(depth=5), "depth=5 does not split into blocks over space, time. Use depth=6."),
        (dict(depth=4, plan="axial"), "depth=4 does not split into blocks over row, column, time. Use depth=6."),
        (
            dict(depth=4, plan=["space", "space", "time"]),
            "depth=4 does not split into blocks over space, space, time. Use depth=6.",
        ),
        (dict(plan=[]), "plan=[] has no look. Use plan=interleaved, or a list such as [space, space, time]."),
        (dict(num_heads=3, plan="split_heads"), "num_heads=3 does not split into halves. Use num_heads=4."),
    ],
)
def test_impossible_plans_are_refused_with_their_numbers(settings, text):
    with pytest.raises(ValueError) as error:
        make(**settings)
    assert str(error.value) == text


# ---- what they see: by gradient, against the definitions written down for single places ----


def here(i, j, n, k):
    return i == j


def everywhere(i, j, n, k):
    return True


def window(i, j, n, k):
    return i // min(k, n) == j // min(k, n)


def shifted(i, j, n, k):
    k = min(k, n)
    off = k // 2 if k < n else 0
    return (i + off) // k == (j + off) // k


def stride(i, j, n, k):
    return i % min(k, n) == j % min(k, n)


LOOKS = {
    "space": (here, everywhere, everywhere),
    "time": (everywhere, here, here),
    "row": (here, here, everywhere),
    "column": (here, everywhere, here),
    "window": (window,) * 3,
    "shifted": (shifted,) * 3,
    "stride": (stride,) * 3,
}


def sees(look, causal, sizes):
    """(N,N) bool: whether token i may ask token j in this look."""
    places = torch.cartesian_prod(*map(torch.arange, sizes)).tolist()
    axes = list(zip(LOOKS[look], sizes, WINDOW, strict=True))
    return torch.tensor(
        [
            [
                all(rule(a, b, n, k) for (rule, n, k), a, b in zip(axes, i, j, strict=True))
                and not (causal and j[0] > i[0])
                for j in places
            ]
            for i in places
        ]
    )


def reach(plan, depth, causal, sizes):
    """(N,N) bool: what reaches what through all blocks, residual paths included."""
    relations = {look: sees(look, causal, sizes) | torch.eye(sizes[0] * sizes[1] * sizes[2]).bool() for look in LOOKS}
    steps = []
    for looks in blocks_of(plan, depth):
        steps += [relations[looks[0]] | relations[looks[1]]] if plan == "split_heads" else [relations[x] for x in looks]
    return reduce(lambda far, near: (near.double() @ far.double()) > 0, steps)


def gradients(net, grid):
    """(N,N) bool: whether output place i depends on input place j. Sample i of a batch is asked for place i."""
    n = grid.t * grid.h * grid.w
    x = draw(1, *grid).double().expand(n, *grid).clone().requires_grad_()
    y = net.double()(x, torch.full((n,), 0.4), Cond()).sum(dim=1).flatten(1)
    return torch.autograd.grad(y.diagonal().sum(), x)[0].abs().sum(dim=1).flatten(1) > 0


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("plan", DEPTHS)
def test_what_a_plan_sees(plan, causal):
    depth = DEPTHS[plan]
    net = make(grid=WIDE, plan=plan, depth=depth, causal=causal)
    assert torch.equal(gradients(net, WIDE), reach(plan, depth, causal, WIDE[1:]))


@pytest.mark.parametrize("look", LOOKS)
def test_what_a_single_look_sees(look):
    """One block of the plan that has it, the others made the identity."""
    plan = next(name for name, p in PLANS.items() if look in p.looks and p.arrangement == "in_turn")
    net = make(grid=WIDE, plan=plan, depth=DEPTHS[plan])
    for looks, block in zip(net.looks, net.blocks, strict=True):
        if looks != (look,):
            block.adaln.reset_to_zero()
    eye = torch.eye(5 * 4 * 3).bool()
    assert torch.equal(gradients(net, WIDE), sees(look, False, WIDE[1:]) | eye)


@pytest.mark.parametrize("positions", ["sincos", "learned", "rotary"])
@pytest.mark.parametrize("plan", PLANS)
@torch.no_grad()
def test_causal_plans_do_not_see_the_future(plan, positions):
    net, x, time = make(positions, WIDE, plan=plan, depth=6, causal=True), draw(2, *WIDE), torch.rand(2, 5)
    y = net(x, time, Cond())
    later, later_time = x.clone(), time.clone()
    later[:, :, 2], later_time[:, 2] = 7.0, 0.0
    changed = (net(later, later_time, Cond()) - y).abs().amax(dim=(0, 1, 3, 4)) > 0
    assert changed.tolist() == [False, False, True, True, True]


# ---- numbers ----


@torch.no_grad()
def test_interleaved_and_late_fusion_have_the_same_parameters_and_differ():
    x, time = draw(2, *GRID), torch.tensor([0.2, 0.7])
    one, other = make("sincos"), make("sincos", plan="late_fusion")
    one.load_state_dict(other.state_dict())
    assert not torch.allclose(one(x, time, Cond()), other(x, time, Cond()), atol=1e-3)


@pytest.mark.parametrize(("plan", "weights"), [("interleaved", 18), ("sequential", 25), ("split_heads", 18)])
def test_weights_of_a_block(plan, weights):
    """In squares of the width: attention 4, MLP 8, and 3 for every modulated branch."""
    block = make(plan=plan).blocks[0]
    assert sum(p.numel() for p in block.parameters() if p.ndim == 2) == weights * 48**2


@torch.no_grad()
def test_split_heads_are_two_attentions_added():
    """Written out with two modules of half the heads, one over space, one over time."""
    net = make("rotary", plan="split_heads", num_heads=4)
    block, x = net.blocks[0], draw(2, 3, 8, 48)
    meetings = []
    block.register_forward_pre_hook(lambda _, inputs: meetings.extend(inputs[2:]))
    net(draw(2, *GRID), torch.ones(2), Cond())
    attn, halves = block.attn, 0
    for half, meeting in enumerate(meetings):
        rows = slice(24 * half, 24 * half + 24)
        q, k, v = (w[rows] for w in attn.qkv.weight.chunk(3))
        bias = [b[rows] for b in attn.qkv.bias.chunk(3)]
        tokens = x.flatten(0, 1) if half == 0 else x.transpose(1, 2).flatten(0, 1)
        parts = [
            (tokens @ w.T + b).unflatten(-1, (2, 12)).transpose(1, 2) for w, b in zip((q, k, v), bias, strict=True)
        ]
        parts[:2] = [rotate(part, meeting.rotation) for part in parts[:2]]
        y = attn.attention(*parts).transpose(1, 2).flatten(2) @ attn.proj.weight[:, rows].T
        halves = halves + (y.unflatten(0, (2, 3)) if half == 0 else y.unflatten(0, (2, 8)).transpose(1, 2))
    assert torch.allclose(block.split(x, *meetings), halves + attn.proj.bias, atol=1e-5)


@pytest.mark.parametrize("positions", ["none", "sincos", "learned", "rotary"])
@pytest.mark.parametrize("plan", PLANS)
@torch.no_grad()
def test_positions_on_both_axes(positions, plan):
    window = (9, 9, 9) if plan == "windowed" else (1, 1, 1)  # all of the clip, or every place of it: order is free
    net, x, time = make(positions, plan=plan, depth=6, window=window), draw(2, *GRID), torch.tensor([0.3, 0.8])
    y = net(x, time, Cond())
    for axis, order in ((2, [2, 0, 1]), (3, [1, 3, 0, 2]), (4, [1, 0])):
        order = torch.tensor(order)
        same = torch.allclose(net(x.index_select(axis, order), time, Cond()), y.index_select(axis, order), atol=1e-5)
        assert same == (positions == "none")


@pytest.mark.parametrize(("plan", "before"), [("interleaved", 1), ("late_fusion", 2), ("axial", 2)])
@torch.no_grad()
def test_temporal_positions_enter_just_before_the_first_temporal_block(plan, before):
    """Equal frames stay equal up to there, and differ from there on."""
    depth = 2 * before if plan != "axial" else 3
    net, equal = make("sincos", plan=plan, depth=depth * (2 if plan == "interleaved" else 1)), []
    for block in net.blocks:
        block.register_forward_hook(lambda _, inputs, output: equal.append(bool((output == output[:, :1]).all())))
    net(draw(2, 5, 1, 4, 2).expand(2, *GRID), torch.ones(2), Cond())
    assert equal == [True] * before + [False] * (len(net.blocks) - before)


@torch.no_grad()
def test_rotary_attention_of_a_window_knows_its_differences_of_place():
    """A window that is the whole clip is joint attention: the same weights in dit_joint answer the same."""
    net = make("rotary", WIDE, plan="windowed", depth=2, window=(5, 4, 3))
    joint = build(
        "backbone",
        dict(name="dit_joint", dim=48, depth=2, num_heads=2),
        grid=WIDE,
        out_channels=7,
        cond=CondSpec(),
        attention=build("attention", "math"),
        positions=partial(build, "positions", "rotary"),
    ).eval()
    joint.load_state_dict(net.state_dict())
    x, time = draw(2, *WIDE), torch.tensor([0.2, 0.7])
    assert torch.allclose(net(x, time, Cond()), joint(x, time, Cond()), atol=1e-5)


@torch.no_grad()
def test_rotary_attention_does_not_care_where_its_window_lies():
    """Through windows of two frames that tile the clip, moving the clip by a window moves the answer."""
    net = make("rotary", Grid(5, 6, 4, 2), plan="strided", depth=2, window=(2, 4, 2))
    x = draw(1, 5, 6, 4, 2)
    for looks, block in zip(net.looks, net.blocks, strict=True):
        if looks == ("stride",):
            block.adaln.reset_to_zero()
    y, moved = net(x, torch.ones(1), Cond()), net(x.roll(2, 2), torch.ones(1), Cond())
    assert torch.allclose(moved, y.roll(2, 2), atol=1e-5)
    assert not torch.allclose(net(x.roll(1, 2), torch.ones(1), Cond()), y.roll(1, 2), atol=1e-3)


# ---- pictures beside a clip ----


@pytest.mark.parametrize("plan", ["interleaved", "late_fusion", "axial"])
@torch.no_grad()
def test_pictures_beside_a_clip_stand_alone(plan):
    net, x, time = make("sincos", plan=plan, depth=6), draw(2, 5, 5, 4, 2), torch.rand(2, 5)
    y = net(x, time, Cond(), images=2)
    assert torch.allclose(y[:, :, :3], net(x[:, :, :3], time[:, :3], Cond()), atol=1e-5)
    swapped = [0, 1, 2, 4, 3]
    assert torch.allclose(net(x[:, :, swapped], time[:, swapped], Cond(), images=2), y[:, :, swapped], atol=1e-5)


def test_pictures_need_temporal_blocks():
    with pytest.raises(ValueError, match="images beside a clip need a plan with temporal blocks"):
        make(plan="sequential")(draw(2, *GRID), torch.ones(2), Cond(), images=1)


def test_a_network_for_images_refuses_clips():
    with pytest.raises(ValueError, match=r"built for images.*5x3x4x2"):
        make(grid=Grid(5, 1, 4, 2), plan="windowed")(draw(2, *GRID), torch.ones(2), Cond())


def test_masks_are_announced():
    assert make(causal=True).masked and make(grid=WIDE, plan="windowed").masked
    assert not make().masked and not make(grid=Grid(5, 4, 6, 8), plan="strided").masked


# ---- what every plan keeps ----


def fresh(plan, **settings):
    torch.manual_seed(0)
    node = {"name": "dit_factorized", "dim": 48, "depth": 6, "num_heads": 2, "plan": plan, "window": WINDOW, **settings}
    wiring = dict(out_channels=7, cond=CondSpec(), positions=partial(build, "positions", "rotary"))
    return build("backbone", node, grid=WIDE, attention=build("attention", "sdpa"), **wiring)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("plan", PLANS)
@torch.no_grad()
def test_every_plan_starts_as_the_identity(plan, causal):
    net, same = fresh(plan, causal=causal), []
    for block in net.blocks:
        block.register_forward_hook(lambda _, inputs, output: same.append(torch.equal(inputs[0], output)))
    assert (net(draw(2, *WIDE), torch.rand(2, 5), Cond()) == 0).all() and same == [True] * 6


@pytest.mark.parametrize("plan", PLANS)
def test_every_plan_gives_a_gradient_to_every_parameter_recomputed_or_not(plan):
    nets = [make("rotary", WIDE, plan=plan, depth=6, causal=True, recompute=recompute) for recompute in (False, True)]
    for net in nets:
        net.train()(draw(2, *WIDE), torch.tensor([0.2, 0.7]), Cond()).square().mean().backward()
    for (key, p), q in zip(nets[0].named_parameters(), nets[1].parameters(), strict=True):
        assert (p.grad != 0).any() and torch.equal(p.grad, q.grad), key


@pytest.mark.parametrize("plan", PLANS)
@torch.no_grad()
def test_every_plan_under_amp(plan):
    net, x, time = make("rotary", WIDE, plan=plan, depth=6, causal=True), draw(2, *WIDE), torch.tensor([0.2, 0.7])
    exact = net(x, time, Cond())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(x, time, Cond())
    assert (mixed.float() - exact).norm() < 0.05 * exact.norm()
