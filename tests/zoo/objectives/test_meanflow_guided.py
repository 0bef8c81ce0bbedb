"""Guidance inside the target of MeanFlow: its velocity in closed form, whom it guides, and what it is without."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from tests.teacher import built
from tests.zoo.objectives.test_shortcut import Told, video
from vidiff.diffusion.estimate import velocity
from vidiff.diffusion.path import expand
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Origin

F64 = torch.float64
T = torch.tensor([0.9, 0.6, 0.5, 0.95], dtype=F64)
S = torch.tensor([0.1, 0.55, 0.0, 0.95], dtype=F64)
MEAN, OF_CLASS, OF_ALL = 1.3, 0.2, 0.9
"""Data of the class are N(MEAN, OF_CLASS), all data are taken for N(0, OF_ALL)."""


def objective(name="meanflow_guided", **settings):
    o = built(OBJECTIVES[name], settings)
    o.step = Told()
    return o


def normal_velocity(x, t, mean, variance):
    """E[noise - x0 | x_t] on the straight path for N(mean, variance)."""
    centred = x - expand((1 - t) * mean, x)
    return expand((t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2), x) * centred - mean


def guided(x, t, scale):
    told, null = normal_velocity(x, t, MEAN, OF_CLASS), normal_velocity(x, t, 0.0, OF_ALL)
    return scale * told + (1 - scale) * null


class Learned(torch.nn.Module):
    """The network at its fixed point for steps of length 0; the class is told as 1, no class as 0."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.offset = scale, torch.nn.Parameter(torch.zeros((), dtype=F64))

    def forward(self, x, label, cond):
        if torch.is_tensor(cond.image):
            return guided(x, label, self.scale) + self.offset
        return normal_velocity(x, label, 0.0, OF_ALL) + self.offset


class TellsClass(Told):
    """Keeps a sign of the class, in the image's place."""

    def forward(self, cond, length):
        return Cond(vector=length[:, None], image=cond.image)


def condition(drop=(False,) * 4):
    with_it = torch.ones(4, 1, 1, dtype=F64)
    return Cond(image=with_it, origin=Origin({}, torch.tensor(drop)), without=Cond())


def learned(scale, **settings):
    o = objective(scale=scale, **settings)
    o.step = TellsClass()
    return o, Learned(scale)


@pytest.mark.parametrize("kappa", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_what_has_been_learned_is_the_guided_velocity_whatever_kappa(kappa, scale):
    """omega v + kappa u(c) + (1 - omega - kappa) u with omega = scale (1 - kappa) stays where it is (app. B.1)."""
    o, net = learned(scale, kappa=kappa)
    x = video(4)
    v = normal_velocity(x, T, MEAN, OF_CLASS)  # what pairs of the class have at x_t on average
    assert torch.allclose(o.slope(net, x, T, condition(), v), guided(x, T, scale), atol=1e-12)
    assert o.omega == pytest.approx(scale * (1 - kappa))
    with torch.no_grad():
        net.offset += 0.2  # away from it the target follows by the share of the network's own answers
    moved = o.slope(net, x, T, condition(), v) - guided(x, T, scale)
    assert torch.allclose(moved, torch.full_like(moved, 0.2 * (1 - o.omega)), atol=1e-12)


def test_dropped_conditions_and_other_times_are_not_guided():
    o, net = learned(2.5, guided=(0.55, 0.92))
    x, v = video(4), video(4, 2)
    found = o.slope(net, x, T, condition(drop=(True, False, False, False)), v)
    assert torch.equal(found[[0, 2, 3]], v[[0, 2, 3]]) and not torch.allclose(found[1], v[1], atol=0.1)
    several = torch.tensor([[False, False, True], [True, True, False], [True, False, False], [False] * 3])
    assert Origin({}, several).dropped.tolist() == [True, True, False, False]


def test_the_average_is_of_the_guided_velocity_and_follows_it():
    """target = v_guided - (t - s) d/dt u, differentiated along v_guided (alg. 1 with eq. 19)."""
    o, net = learned(2.5)
    x0, noise, change, along = video(4), video(4, 2), video(4, 3), []
    o.change = lambda net, x_t, t, cond, s, v: along.append(v) or change
    asked = []
    plain = net.forward
    net.forward = lambda x, label, cond: asked.append(cond.vector) or plain(x, label, cond)
    found = o.loss_at(net, x0, noise, T, condition(), S)
    x_t = o.path.point(x0, noise, T)
    v = o.slope(net, x_t, T, condition(), noise - x0)
    assert torch.equal(along[0], v) and (asked[0] == 0).all() and (asked[1] == 0).all(), "of length 0"
    wanted = v - expand(T - S, v) * change
    y = velocity(o.path, o.estimate(net, x_t, T, condition(), S), T)
    assert torch.allclose(found["mse"], ((y - wanted) ** 2).flatten(1).mean(1), atol=1e-12)


def test_scale_1_and_kappa_0_is_meanflow_and_targets_send_no_gradient():
    net = torch.nn.Conv3d(3, 3, 1, dtype=F64)
    answer = lambda x, label, cond: net(x) + label[:, None, None, None, None]  # noqa: E731
    x0, noise = video(4), video(4, 2)
    losses = [
        objective(name, **settings).loss_at(answer, x0, noise, T, condition())
        for name, settings in (("meanflow_guided", {"scale": 1.0, "kappa": 0.0}), ("meanflow", {}))
    ]
    assert torch.allclose(losses[0]["loss"], losses[1]["loss"], rtol=1e-12)
    o = objective(scale=3.0)
    assert not o.slope(answer, x0, T, condition(), noise).requires_grad
    o.loss(answer, x0, condition(), Random(0, "m", rows=range(4)))["loss"].backward()
    assert net.weight.grad.abs().sum() > 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="kappa is 1"):
        objective(kappa=1.0)
    o = objective()
    with pytest.raises(ValueError, match="no null condition to be guided away from"):
        o.loss_at(lambda x, label, cond: x, video(4), video(4, 2), T, Cond())
