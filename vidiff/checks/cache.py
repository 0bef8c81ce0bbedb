"""What every cache promises: vidiff.caching.Cache, in a small network whose blocks can be left out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from vidiff.blocks import Rows
from vidiff.caching import Cache, CacheRun, Tally
from vidiff.checks import backbone
from vidiff.checks.parts import Beside, apart, draw, randomised, require
from vidiff.registry import BACKBONES, Component
from vidiff.types import Cond, join


def make(component: Component) -> tuple[Cache, nn.Module]:
    """A tiny one, and a network for it. Raises Beside where it refuses that network."""
    cache, net = component.build(component.tiny), randomised(backbone.make(BACKBONES["dit_joint"]))
    try:
        cache.check(net)
    except ValueError as why:
        raise Beside(str(why)) from None
    return cache, net


def ask(b: int) -> tuple[Tensor, Tensor, Cond]:
    """x, time and condition of so many rows."""
    return backbone.ask(BACKBONES["dit_joint"], b)


def answer(run: CacheRun, net: nn.Module, branches: list[str], *asked: Any) -> Tensor:
    """One call of the network within the run."""
    with run.call(net, branches, Rows(len(asked[0]), asked[0].device)):
        return net(*asked)


def walk(cache: Cache, net: nn.Module, rows: list[int]) -> tuple[Tensor, Tally]:
    """Eight calls in which row 0 hardly changes and row 2 much: answers (8,rows,...), and the tally."""
    tally, answers = Tally(), []
    run, (x, time, cond) = cache.start(tally), ask(3)
    rates = torch.tensor([0.02, 0.3, 1.0])[:, None, None, None, None]
    part = join([backbone.each(cond, lambda p, i=i: p[i : i + 1]) for i in rows])
    for step in range(8):
        moved = (x + step * rates * draw(*x.shape, seed=step))[rows]
        answers.append(answer(run, net, ["cond"], moved, time[rows], part))
    return torch.stack(answers), tally


@torch.no_grad()
def the_first_call_is_the_network(component: Component) -> None:
    """At the first call of a run nothing is kept, so the answer is the network's: state must be in the run that `start`
    gives, never in the cache or in the network."""
    (cache, net), (x, *told) = make(component), ask(2)
    for further in (0, 0.02):  # a second run from the same cache, of data so near that what is kept would do
        asked = (x + further * draw(*x.shape, seed=9), *told)
        off = apart(answer(cache.start(Tally()), net, ["cond"], *asked), net(*asked))
        require(off <= 0, f"it is off by {off + 1e-5:.3g}.")


@torch.no_grad()
def off_is_no_cache(component: Component) -> None:
    """With the setting of `off` every answer has the bits of the network alone, and every backbone is taken: give the
    class `off`, such as ("threshold", 0.0), so that a comparison can be made with nothing else changed."""
    off = getattr(component.target, "off", None)
    cache = component.build({**component.tiny, **dict([off] if off else [])})
    net = randomised(backbone.make(BACKBONES["dit_joint"]))
    bare = nn.Identity()
    bare.blocks = nn.ModuleList()  # nothing to keep anything of
    for network, what in ((net, "a transformer"), (bare, "a network without blocks")):
        try:
            cache.check(network)
        except ValueError as why:
            require(False, f"it refuses {what}: {why}")
    tally, (x, *told) = Tally(), ask(2)
    run, empty = cache.start(tally), cache.start(Tally())
    for step in range(5):
        asked = (x + 0.001 * step * draw(*x.shape, seed=step), *told)
        require(torch.equal(answer(run, net, ["cond"], *asked), net(*asked)), f"call {step + 1} has other bits.")
        with empty.call(bare, ["cond"], Rows(2, x.device)):
            require(torch.equal(bare(x), x), "a network without blocks answers otherwise.")
    require(tally.reused == 0, f"{tally.reused} rows are counted as reused.")


@torch.no_grad()
def what_is_kept_is_right_while_nothing_changes(component: Component) -> None:
    """Asked the same again, the answer is the same: what is added again is what the skipped blocks added."""
    cache, net = make(component)
    run, asked = cache.start(Tally()), ask(2)
    first = answer(run, net, ["cond"], *asked)
    for call in (2, 3, 4):
        off = apart(answer(run, net, ["cond"], *asked), first)
        require(off <= 0, f"call {call} is off by {off + 1e-5:.3g}.")


@torch.no_grad()
def branches_keep_apart(component: Component) -> None:
    """A branch of guidance that is asked for the first time is computed, whatever is kept of another branch: key what
    is kept by branch and row."""
    cache, net = make(component)
    run, (x, time, cond) = cache.start(Tally()), ask(2)
    first = answer(run, net, ["cond"], x, time, cond)
    new = draw(*x.shape, seed=31)
    mixed = answer(run, net, ["uncond", "cond"], torch.cat([new, x]), torch.cat([time] * 2), join([cond] * 2))
    off = apart(mixed[:2], net(new, time, cond))
    require(off <= 0, f"the new branch is off by {off + 1e-5:.3g}.")
    off = apart(mixed[2:], first)
    require(off <= 0, f"the known branch is off by {off + 1e-5:.3g}.")


@torch.no_grad()
def samples_keep_apart(component: Component) -> None:
    """A sample is the same in any company: whether a row is computed depends on that row alone, not on a mean over
    the batch."""
    cache, net = make(component)
    together, tally = walk(cache, net, [0, 1, 2])
    alone = [walk(cache, net, [i]) for i in range(3)]
    for i, (answers, _) in enumerate(alone):
        off = apart(together[:, i], answers[:, 0], 1e-4)
        require(off <= 0, f"row {i} differs by {off + 1e-4:.3g} alone and among three.")
    reused = sum(t.reused for _, t in alone)
    require(tally.reused == reused, f"{tally.reused} rows are reused together and {reused} alone.")


@torch.no_grad()
def counts_what_it_saves(component: Component) -> None:
    """The tally never has more rows reused than asked for, and its errors are finite and not negative: `saved` and
    `error_mean` of a run's record come from it."""
    cache, net = make(component)
    answers, tally = walk(cache, net, [0, 1, 2])
    require(answers.isfinite().all(), "an answer is not finite.")
    require(0 <= tally.reused <= tally.asked, f"{tally.reused} reused of {tally.asked}.")
    require(all(0 <= e < float("inf") for e in tally.errors), f"errors {tally.errors}.")


@torch.no_grad()
def gives_the_network_back(component: Component) -> None:
    """After a call, and after one that fails, the network is as it was: same modules, same answer."""
    cache, net = make(component)
    before, asked = list(net.modules()), ask(2)
    plain = net(*asked)
    answer(cache.start(Tally()), net, ["cond"], *asked)
    require(before == list(net.modules()), "its modules are others after a call.")
    with suppress(RuntimeError), cache.start(Tally()).call(net, ["cond"], Rows(1, None)):
        raise RuntimeError
    require(before == list(net.modules()), "its modules are others after a call that fails: use try and finally.")
    require(torch.equal(net(*asked), plain), "it answers otherwise.")


CHECKS = (the_first_call_is_the_network, off_is_no_cache, what_is_kept_is_right_while_nothing_changes,
          branches_keep_apart, samples_keep_apart, counts_what_it_saves, gives_the_network_back)  # fmt: skip
