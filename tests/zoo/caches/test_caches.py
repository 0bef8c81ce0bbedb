"""Caches: off is none in bits, each row decides for itself, and errors are what they say."""

from itertools import pairwise

import pytest
import torch

import zoo.caches
import zoo.samplers  # noqa: F401
from tests.contracts.test_backbone import ask, draw, make, only, randomised
from tests.zoo.guidance.test_disturbed import STREAMS, bare, each_stack
from vidiff.blocks import Rows
from vidiff.caching import Tally
from vidiff.random import Random
from vidiff.registry import CACHES, build
from vidiff.types import Grid, join

OFF = [
    {"name": "first_block", "threshold": 0.0},
    {"name": "teacache", "threshold": 0.0},
    {"name": "fora", "interval": 1},
]
EAGER = [
    {"name": "first_block", "threshold": 1e9},
    {"name": "teacache", "threshold": 1e9},
    {"name": "fora", "interval": 9},
]
ids = lambda node: node["name"] if isinstance(node, dict) else None  # noqa: E731


def fitting(node, net):
    """Whether this cache could be put into the network, were it on."""
    try:
        build("cache", node).fits(net)
    except ValueError:
        return False
    return True


def started(node, net):
    """A run of this cache in a network that it fits, or None, and its tally."""
    cache, tally = build("cache", node), Tally()
    try:
        cache.check(net)
    except ValueError:
        return None, tally
    return cache.start(tally), tally


@torch.no_grad()
@each_stack
@pytest.mark.parametrize("node", OFF, ids=ids)
def test_off_is_no_cache_in_bits(name, settings, node):
    net = randomised(make(name, **settings))
    run, tally = started(node, net)
    for seed in (2, 9):
        x, time, cond = ask(name, seed=seed)
        with run.call(net, ["cond"], Rows(2, x.device)):
            kept = net(x, time, cond)
        assert torch.equal(kept, net(x, time, cond))
    assert tally.reused == 0 and tally.asked == (4 if fitting(node, net) else 0)


@torch.no_grad()
@pytest.mark.parametrize("node", OFF, ids=ids)
def test_off_goes_with_what_no_cache_fits(node):
    """A U-Net, whose levels change sizes, and a transformer of one block."""
    for name, settings in (("unet3d", {}), ("dit_joint", {"depth": 1})):
        net = randomised(make(name, **settings))
        run, tally = started(node, net)
        x, time, cond = ask(name)
        for _ in range(3):
            with run.call(net, ["cond"], Rows(2, x.device)):
                assert torch.equal(net(x, time, cond), net(x, time, cond))
        assert (tally.reused == 0 and name == "dit_joint") or tally.asked == 0


@torch.no_grad()
@pytest.mark.parametrize("node", OFF, ids=ids)
@pytest.mark.parametrize("name", ["dit_joint", "unet3d"])
def test_off_asks_a_backbone_once_whether_it_fits(name, node, monkeypatch):
    cache, asked, nets = build("cache", node), [], [randomised(make(name)), randomised(make(name, seed=1))]
    fits = cache.fits
    monkeypatch.setattr(cache, "fits", lambda net: asked.append(net) or fits(net))
    run, (x, time, cond) = cache.start(Tally()), ask(name)
    for net in (nets[0], nets[0], nets[1], nets[1]):
        with run.call(net, ["cond"], Rows(2, x.device)):
            net(x, time, cond)
    assert [id(net) for net in asked] == [id(net) for net in nets]


@torch.no_grad()
@each_stack
@pytest.mark.parametrize("node", EAGER, ids=ids)
def test_what_is_kept_is_right_while_nothing_changes_and_wrong_when_something_does(name, settings, node):
    net = randomised(make(name, **settings))
    run, tally = started(node, net)
    if run is None or (node["name"], settings.get("plan")) == ("fora", "split_heads"):
        pytest.skip("refused")
    x, time, cond = ask(name)
    with run.call(net, ["cond"], Rows(2, x.device)):
        first = net(x, time, cond)
    with run.call(net, ["cond"], Rows(2, x.device)):
        again = net(x, time, cond)
    assert torch.allclose(first, again, atol=1e-5) and (tally.asked, tally.reused) == (4, 2)
    other = ask(name, seed=7)[0]
    with run.call(net, ["cond"], Rows(2, x.device)):
        stale = net(other, time, cond)
    assert not torch.allclose(stale, net(other, time, cond), atol=1e-2)
    assert not torch.allclose(stale, first, atol=1e-2), "what enters is new"


def calls(net):
    """The batch sizes at which the last block is computed."""
    seen = []
    net.blocks[-1].register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    return seen


@torch.no_grad()
@each_stack
@pytest.mark.parametrize("node", EAGER, ids=ids)
def test_a_row_of_a_mixed_batch_is_as_it_is_alone(name, settings, node):
    """A new branch is computed beside rows that are kept: a part of the batch goes through the blocks."""
    net = randomised(make(name, **settings))
    run, tally = started(node, net)
    if run is None or (node["name"], settings.get("plan")) == ("fora", "split_heads"):
        pytest.skip("refused")
    x, time, cond = ask(name)
    with run.call(net, ["cond"], Rows(2, x.device)):
        first = net(x, time, cond)
    new = draw(*x.shape, seed=31)
    seen = calls(net)
    with run.call(net, ["uncond", "cond"], Rows(4, x.device)):
        mixed = net(torch.cat([new, x]), torch.cat([time] * 2), join([cond] * 2))
    assert torch.allclose(mixed[:2], net(new, time, cond), atol=1e-5), "computed"
    assert torch.allclose(mixed[2:], first, atol=1e-5), "kept"
    assert (tally.asked, tally.reused) == (6, 2)
    assert seen[0] == (4 if node["name"] == "fora" else 2), "only the new rows went through the last block"


@torch.no_grad()
@pytest.mark.parametrize(
    "node", [{"name": "first_block", "threshold": 0.3}, {"name": "teacache", "threshold": 0.4}], ids=ids
)
def test_a_sample_is_the_same_in_any_company(node):
    """Rows change at different rates, so they are computed at different steps; each does what it does alone."""
    net = randomised(make("dit_joint"))
    x, time, cond = ask("dit_joint", b=3)
    rates = torch.tensor([0.02, 0.3, 1.0])[:, None, None, None, None]

    def walk(rows):
        run, tally = started(node, net)
        answers = []
        for step in range(6):
            moved = (x + step * rates * draw(*x.shape, seed=step))[rows]
            part = join([only(cond, i) for i in rows])
            with run.call(net, ["cond"], Rows(len(rows), x.device)):
                answers.append(net(moved, time[rows], part))
        return torch.stack(answers), tally

    together, tally = walk([0, 1, 2])
    alone = [walk([i]) for i in range(3)]
    reused = [t.reused for _, t in alone]
    assert tally.reused == sum(reused) and reused[0] > reused[2]
    for i, (answers, _) in enumerate(alone):
        assert torch.allclose(together[:, i], answers[:, 0], atol=1e-4)


@torch.no_grad()
def test_the_first_block_decides_and_the_error_is_that_of_the_tokens():
    net = randomised(make("dit_joint"))
    x, time, cond = ask("dit_joint")
    other = x + 0.1 * draw(*x.shape, seed=5)
    entered, first, last = [], [], []
    net.blocks[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    net.blocks[0].register_forward_hook(lambda _, __, output: first.append(output))
    net.blocks[-1].register_forward_hook(lambda _, __, output: last.append(output))
    for y in (x, other):
        net(y, time, cond)
    r = [b - a for a, b in zip(entered, first, strict=True)]
    change = (r[1] - r[0]).abs().flatten(1).mean(1) / r[0].abs().flatten(1).mean(1)
    would = first[1] + (last[0] - first[0])
    errors = (would - last[1]).flatten(1).norm(dim=1) / last[1].flatten(1).norm(dim=1)
    threshold = change.mean().item()  # between the two rows
    run, tally = started({"name": "first_block", "threshold": threshold}, net)
    for y in (x, other):
        with run.call(net, ["cond"], Rows(2, x.device)):
            net(y, time, cond)
    assert tally.reused == 1 and tally.asked == 4
    assert tally.errors == pytest.approx([errors[int(change.argmax())].item()], rel=1e-3)


@torch.no_grad()
def test_the_first_block_is_compared_with_the_last_computed_step_not_the_last_one():
    """A slow drift, each step below the threshold, adds up."""
    net = randomised(make("dit_joint"))
    x, time, cond = ask("dit_joint", b=1)
    run, tally = started({"name": "first_block", "threshold": 0.1}, net)
    direction, reused = draw(*x.shape, seed=5), []
    for step in range(12):
        before = tally.reused
        with run.call(net, ["cond"], Rows(1, x.device)):
            net(x + 0.04 * step * direction, time, cond)
        reused.append(tally.reused > before)
    assert reused[1] and not all(reused[1:]), reused


@torch.no_grad()
def test_teacache_sums_rescaled_changes():
    """With 10 d^2 + 0.05 as the polynomial, by hand."""
    net = randomised(make("dit_joint"))
    x, time, cond = ask("dit_joint", b=1)
    node = {"name": "teacache", "threshold": 0.4, "coefficients": [10.0, 0.0, 0.05]}
    run, tally = started(node, net)
    looks, kept, total = [], [], 0.0
    net.blocks[0].register_forward_pre_hook(lambda module, inputs: looks.append(module.modulated(*inputs)))
    inputs = [x + 0.05 * i * draw(*x.shape, seed=i) for i in range(8)]
    for y in inputs:
        net(y, time, cond)
    expected = [False]
    for before, now in pairwise(looks):
        total += 10 * ((now - before).abs().mean() / before.abs().mean()).item() ** 2 + 0.05
        expected.append(total < 0.4)
        total = total if expected[-1] else 0.0
    for y in inputs:
        before = tally.reused
        with run.call(net, ["cond"], Rows(1, x.device)):
            net(y, time, cond)
        kept.append(tally.reused > before)
    assert kept == expected and 0 < sum(kept) < 7


@torch.no_grad()
def test_teacache_looks_at_what_the_first_attention_is_given():
    from zoo.layers.attention import SelfAttention

    for name, settings in STREAMS:
        net, seen = randomised(make(name, **settings)), []
        if not hasattr(net.blocks[0], "modulated") or name == "mmdit" or settings.get("plan") == "split_heads":
            continue
        attention = next(m for m in net.blocks[0].modules() if isinstance(m, SelfAttention))
        attention.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        looks = []
        net.blocks[0].register_forward_pre_hook(lambda m, inputs, looks=looks: looks.append(m.modulated(*inputs)))
        net(*ask(name))
        given = seen[0] if name != "dit_expert" else seen[0][:, -looks[0].flatten(1, 2).shape[1] :]
        assert given.numel() >= looks[0].numel()
        assert torch.allclose(given.flatten().sort().values[-5:], looks[0].flatten().sort().values[-5:], atol=1e-5), (
            name
        )


@torch.no_grad()
def test_fora_counts_evaluations_and_checks_every_layer():
    net = randomised(make("dit_joint"))
    x, time, cond = ask("dit_joint")
    run, tally = started({"name": "fora", "interval": 3}, net)
    seen, reused = [], []
    net.blocks[1].attn.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    for step in range(7):
        with run.call(net, ["cond"], Rows(2, x.device)):
            net(x + 0.1 * step, time, cond)
        reused.append(tally.reused)
    assert seen == [2, 2, 2] and reused == [0, 2, 4, 4, 6, 8, 8]
    assert len(tally.errors) == 2 * 2 * 4, "two checks of two rows of two layers in two blocks"
    assert all(error > 0 for error in tally.errors)


def test_what_does_not_fit_is_refused_with_the_reason():
    for node in EAGER[:2]:
        with pytest.raises(ValueError, match="UNet3D change sizes"):
            build("cache", node).check(make("unet3d"))
    with pytest.raises(
        ValueError, match="no attention and MLP side by side. Use a transformer backbone, or cache=none"
    ):
        build("cache", "fora").check(make("unet3d"))
    with pytest.raises(ValueError, match="time does not modulate the blocks of UViT"):
        build("cache", "teacache").check(make("uvit"))
    with pytest.raises(ValueError, match="has one block"):
        build("cache", "first_block").check(make("dit_joint", depth=1))
    net = make("dit_factorized", plan="split_heads")
    x, time, cond = ask("dit_factorized")
    run = build("cache", "fora").start(Tally())
    told = pytest.raises(ValueError, match="'attn' of a block is not called as a whole")
    with told, run.call(net, ["cond"], Rows(2, x.device)):
        net(x, time, cond)


def test_a_network_gets_its_blocks_back():
    for name in CACHES.names():
        net = make("dit_joint")
        before = list(net.modules())
        with pytest.raises(RuntimeError), build("cache", name).start(Tally()).call(net, ["cond"], Rows(1, None)):
            raise RuntimeError
        assert before == list(net.modules())


# ---- in a sampling run ----


@pytest.mark.parametrize("guidance", ["none", {"name": "interval", "guidance": "cfg"}, {"name": "stg", "guidance": "cfg"},
                                      {"name": "pag", "guidance": "cfg"}], ids=lambda g: g if g == "none" else g["name"])  # fmt: skip
@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("node", OFF, ids=ids)
def test_a_sample_with_a_cache_that_is_off(monkeypatch, guidance, sampler, node):
    model, _ = bare(monkeypatch)
    model.backbone.eval()
    plain, kept, tally = drawn(model, guidance, sampler, node)
    assert torch.equal(plain, kept) and tally.reused == 0 and tally.asked > 0


def drawn(model, guidance, sampler, node, rows=(0, 1)):
    """The samples without a cache and with it, and its tally."""
    videos, tally = [], Tally()
    for n in ("none", node):
        cache = build("cache", n)
        videos.append(
            model.sample(
                Grid(6, 3, 4, 5),
                build("sampler", {"name": sampler, "steps": 6}),
                build("guidance", guidance),
                Random(0, "sample", rows=list(rows)),
                {"label": torch.tensor([1, 3, 0])[list(rows)]},
                caching=lambda cache=cache: cache.start(tally),
            )
        )
    return *videos, tally


@pytest.mark.parametrize("guidance", ["cfg", {"name": "stg", "blocks": [0, 3], "guidance": "cfg"}, "pag"], ids=str)
@pytest.mark.parametrize(
    "node", [{"name": "first_block", "threshold": 0.6}, {"name": "teacache", "threshold": 0.6}, {"name": "fora", "interval": 2}],
    ids=ids,
)  # fmt: skip
def test_a_sample_with_a_cache_is_near_and_the_same_in_any_company(monkeypatch, guidance, node):
    model, _ = bare(monkeypatch)
    model.backbone.eval()
    plain, kept, tally = drawn(model, guidance, "euler", node, rows=(0, 1, 2))
    assert tally.reused > 0 and not torch.equal(plain, kept)
    assert (plain - kept).norm() < 2 * plain.norm()
    for i in range(3):
        _, alone, _ = drawn(model, guidance, "euler", node, rows=(i,))
        assert torch.allclose(alone[0], kept[i], atol=1e-3), i


def test_two_runs_share_nothing(monkeypatch):
    model, _ = bare(monkeypatch)
    node = {"name": "first_block", "threshold": 0.5}
    assert torch.equal(drawn(model, "cfg", "euler", node)[1], drawn(model, "cfg", "euler", node)[1])
