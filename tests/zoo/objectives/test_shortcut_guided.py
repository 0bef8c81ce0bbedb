"""Guidance inside the targets of shortcut models: the shortest steps are guided, longer ones have learned it."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from tests.zoo.objectives.test_meanflow_guided import (
    MEAN,
    OF_ALL,
    OF_CLASS,
    TellsClass,
    condition,
    guided,
    normal_velocity,
    objective,
)
from tests.zoo.objectives.test_shortcut import video
from vidiff.diffusion.estimate import velocity
from vidiff.types import Cond, rows_of

F64 = torch.float64


def asked(o, told):
    """A network with the class's velocity at length 0 and a sign for longer steps; `told` notes every length."""

    def net(x, label, cond):
        length = cond.vector[:, 0]
        told.append((length, cond.image is not None))
        law = (MEAN, OF_CLASS) if cond.image is not None else (0.0, OF_ALL)
        flow = normal_velocity(x, label, *law)
        return torch.where(length[:, None, None, None, None] > 0, torch.sin(x), flow)

    return net


def step(x, velocity, t, s):
    return x - (t - s)[:, None, None, None, None] * velocity


def test_the_shortest_halves_are_two_guided_euler_steps_and_longer_ones_the_networks_own():
    o, told = objective("shortcut_guided", finest=8, scale=2.5), []
    o.step = TellsClass()
    net = asked(o, told)
    x, t = video(4), torch.tensor([0.5, 1.0, 0.75, 1.0], dtype=F64)
    s = torch.tensor([0.25, 0.5, 0.5, 0.0], dtype=F64)  # rows 0 and 2 are made of the shortest steps
    found = velocity(o.path, o.two_in_one(net, x, t, condition(), s), t)
    m, short = (t + s) / 2, [0, 2]
    middle = step(x, guided(x, t, 2.5), t, m)
    ends = step(middle, guided(middle, m, 2.5), m, s)
    wanted = (x - ends) / (t - s)[:, None, None, None, None]
    assert torch.allclose(found[short], wanted[short], atol=1e-12)
    own = step(x, torch.sin(x), t, m)
    wanted = (x - step(own, torch.sin(own), m, s)) / (t - s)[:, None, None, None, None]
    assert torch.allclose(found[[1, 3]], wanted[[1, 3]], atol=1e-12)
    assert all(length.max() == 0 for length, with_class in told if not with_class), "compared at length 0"


def test_a_dropped_condition_is_compared_with_itself_and_steps_of_length_0_are_plain():
    o, plain = objective("shortcut_guided", finest=8, scale=2.5), objective("shortcut", finest=8)
    for each in (o, plain):
        each.step = TellsClass()
    net, null = asked(o, []), Cond(without=Cond())
    x0, noise = video(4), video(4, 2)
    t, s = torch.tensor([0.5, 1.0, 0.75, 0.3], dtype=F64), torch.tensor([0.25, 0.5, 0.5, 0.3], dtype=F64)
    dropped, without = (each.loss_at(net, x0, noise, t, null, s)["mse"] for each in (o, plain))
    assert torch.allclose(dropped, without, rtol=1e-12)
    told, unguided = (each.loss_at(net, x0, noise, t, condition(), s)["mse"] for each in (o, plain))
    assert torch.allclose(told[[1, 3]], unguided[[1, 3]]) and not torch.isclose(told, unguided)[[0, 2]].any()


def test_scale_1_is_a_plain_shortcut_model():
    o, plain = objective("shortcut_guided", finest=8, scale=1.0), objective("shortcut", finest=8)
    for each in (o, plain):
        each.step = TellsClass()
    t, s = torch.tensor([0.5, 1.0, 0.75, 0.3], dtype=F64), torch.tensor([0.25, 0.5, 0.5, 0.3], dtype=F64)
    one, other = (
        each.loss_at(asked(each, []), video(4), video(4, 2), t, condition(), s)["loss"] for each in (o, plain)
    )
    assert torch.allclose(one, other, rtol=1e-12)


def test_rows_of_a_condition_keep_their_null_and_its_absence_is_said():
    few = rows_of(Cond(vector=torch.eye(4), without=Cond(vector=2 * torch.eye(4))), torch.tensor([2, 0]))
    assert torch.equal(few.without.vector, 2 * torch.eye(4)[[2, 0]])
    o = objective("shortcut_guided", finest=8)
    t, s = torch.tensor([0.5, 1.0], dtype=F64), torch.tensor([0.25, 0.5], dtype=F64)
    with pytest.raises(ValueError, match="no null condition to be guided away from"):
        o.loss_at(asked(o, []), video(2), video(2, 2), t, Cond(), s)
