"""Steps of the true flow map lose nothing; lengths, times and shares are those of the paper."""

import pytest
import torch

import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.teacher import built
from vidiff.diffusion.estimate import Aiming, place, through, toward, velocity
from vidiff.diffusion.path import expand
from vidiff.diffusion.sampler import start
from vidiff.diffusion.transfer import transfer
from vidiff.random import Random
from vidiff.registry import OBJECTIVES, build
from vidiff.types import Cond, CondSpec

B, D, V = 6, 3, 0.4
F64 = torch.float64


def video(num, seed=1):
    return torch.randn(num, D, 1, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=F64)


class Told(torch.nn.Module):
    """The length of a step as the condition's vector itself."""

    def forward(self, cond, length):
        return Cond(vector=length[:, None])

    def extend(self, spec):
        return CondSpec(vector=1)


class FlowMap(torch.nn.Module):
    """The network that knows where every step of N(0, V) data ends: x_s = x_t n(s) / n(t), n^2 = alpha^2 V + sigma^2.

    Its one parameter is an offset that should stay zero.
    """

    def __init__(self, o):
        super().__init__()
        self.o, self.offset = o, torch.nn.Parameter(torch.zeros((), dtype=F64))

    def n(self, t):
        return torch.sqrt(self.o.path.alpha(t) ** 2 * V + self.o.path.sigma(t) ** 2)

    def forward(self, x, label, cond):
        t, path = label, self.o.path
        s = t - cond.vector[:, 0]
        long = t - s > 1e-9
        end = expand(self.n(s) / self.n(t), x) * x
        aimed = through(path, x, t, end, torch.where(long, s, t / 2))
        n2 = self.n(t) ** 2
        now = type(aimed)(expand(path.alpha(t) * V / n2, x) * x, expand(path.sigma(t) / n2, x) * x)
        believed = type(aimed)(*(torch.where(expand(long, x).bool(), a, b) for a, b in zip(aimed, now)))
        return self.o.prediction.ask(path, believed, t) + self.offset


def perfect(name="shortcut", **settings):
    o = built(OBJECTIVES[name], settings)
    o.step = Told()
    return o, FlowMap(o)


@pytest.mark.parametrize("prediction", ["velocity", "x0", "v"])
@pytest.mark.parametrize("path", ["linear", "gvp", "cosine"])
def test_long_steps_of_the_true_flow_map_lose_nothing_and_are_not_pulled(path, prediction):
    o, net = perfect(path=path, prediction=prediction, finest=64)
    t = torch.tensor([1.0, 0.5, 0.75, 0.25, 0.625, 1.0], dtype=F64)
    s = torch.tensor([0.0, 0.25, 0.5, 0.0, 0.5, 0.9375], dtype=F64)
    losses = o.loss_at(net, video(B), video(B, 2), t, Cond(), s)
    losses["loss"].backward()
    assert losses["loss"] < 1e-20 and net.offset.grad.abs() < 1e-10
    assert torch.equal(losses["consistency"], losses["mse"])
    with torch.no_grad():
        net.offset += 0.3
    assert o.loss_at(net, video(B), video(B, 2), t, Cond(), s)["loss"] > 1e-4


def test_on_the_straight_path_the_target_is_the_mean_of_two_velocities():
    """u(x_t, t, s) = (u(x_t, t, m) + u(x_m, m, s)) / 2 for any network: eq. 4."""
    o, _ = perfect()
    net = lambda x, label, cond: (  # noqa: E731
        torch.sin(3 * x) + label[:, None, None, None, None] * cond.vector[:, :, None, None, None]
    )
    x, t, s = video(3), torch.tensor([1.0, 0.5, 0.75], dtype=F64), torch.tensor([0.0, 0.25, 0.5], dtype=F64)
    m = (t + s) / 2
    step = (t - m)[:, None, None, None, None]
    first = velocity(o.path, o.estimate(net, x, t, Cond(), m), t)
    second = velocity(o.path, o.estimate(net, x - step * first, m, Cond(), s), m)
    found = velocity(o.path, o.two_in_one(net, x, t, Cond(), s), t)
    assert torch.allclose(found, (first + second) / 2, atol=1e-12)


def test_the_shortest_steps_are_those_of_the_flow():
    """d = 1 / finest is told as length 0 (sec. 3)."""
    o, _ = perfect(finest=8)
    told = []
    net = lambda x, label, cond: told.append(cond.vector[:, 0]) or x  # noqa: E731
    t, s = torch.tensor([0.5, 1.0], dtype=F64), torch.tensor([0.25, 0.5], dtype=F64)
    o.two_in_one(net, video(2), t, Cond(), s)
    assert torch.equal(torch.stack(told), torch.tensor([[0.0, 0.25], [0.0, 0.25]], dtype=F64))


def test_steps_are_drawn_as_alg_1_says():
    o = built(OBJECTIVES["shortcut"], {"finest": 16, "share": 0.4})
    num = 8000
    drawn = torch.rand(num, generator=torch.Generator().manual_seed(0), dtype=F64)
    t, s = o.draw_steps(Random(5, "steps", rows=range(num)), drawn)
    long = t > s
    assert torch.equal(t[~long], drawn[~long]) and abs(long.double().mean() - 0.4) < 0.02
    lengths, counts = (t - s)[long].unique(return_counts=True)
    assert lengths.tolist() == [0.125, 0.25, 0.5, 1.0], "2 d for d = 1/16 to 1/2"
    assert ((counts / long.sum() - 0.25).abs() < 0.03).all()
    places = s[long & ((t - s) == 0.25)]
    assert places.unique().tolist() == [0.0, 0.25, 0.5, 0.75], "whole steps of the grid"


@pytest.mark.parametrize("steps", [1, 2, 8])
@pytest.mark.parametrize("path", [None, "gvp"])
def test_jumps_end_where_the_flow_does_and_euler_needs_many(steps, path):
    """Also along another path of sampling, which moves both times to equal noise."""
    o, net = perfect()
    sampler = build("sampler", {"name": "jump", "steps": steps})
    estimate = Aiming(lambda x, t, s: o.estimate(net, x, t, Cond(), s))
    along = o.path
    if path:
        along = build("path", path)
        estimate = transfer(estimate, o.path, along, (0.0, 1.0))
    times, noise = sampler.spacing(steps, along, (0.0, 1.0)), video(B)
    with torch.no_grad():
        x = start(along, noise, times[0])
        out = sampler(estimate, x, times, along, None)
        assert torch.allclose(out, V**0.5 * noise, atol=1e-9)
        blind = build("sampler", {"name": "euler", "steps": steps})(estimate, x, times, along, None)
        assert (blind - V**0.5 * noise).abs().max() > 0.02
        many = build("sampler", {"name": "euler", "steps": 4000})
        fine = many(estimate, x, many.spacing(4000, along, (0.0, 1.0)), along, None)
        assert torch.allclose(fine, V**0.5 * noise, atol=2e-3), "without an aim it is a flow model"


def test_an_aim_is_for_those_that_can_be_told():
    plain = lambda x, t: "belief"  # noqa: E731
    assert toward(plain, torch.zeros(1))(None, None) == "belief"
    aiming = Aiming(lambda x, t, s: s)
    assert aiming(None, None) is None and toward(aiming, 0.25)(None, None) == 0.25


def test_the_second_time_starts_silent_and_is_learned():
    """A fresh model is the one without it; the network's other weights are drawn as without it."""
    torch.manual_seed(7)
    o = built(OBJECTIVES["shortcut"], width=64)
    after = torch.rand(3)
    torch.manual_seed(7)
    built(OBJECTIVES["rectified_flow"])
    assert torch.equal(after, torch.rand(3))
    vector, t, s = torch.randn(2, 64), torch.tensor([0.9, 0.5]), torch.tensor([0.4, 0.5])
    assert torch.equal(o.complete(Cond(vector=vector), t, s).vector, vector)
    assert torch.equal(o.complete(Cond(), t, s).vector, torch.zeros(2, 64))
    assert o.extend(CondSpec()) == CondSpec(vector=64) and o.extend(CondSpec(64, 5, 6)) == CondSpec(64, 5, 6)
    with pytest.raises(
        ValueError, match=r"vector, which is 32 wide, and the network is 64 wide\. Use backbone\.dim=32"
    ):
        o.extend(CondSpec(vector=32))
    told = o.complete(Cond(), t, s).vector
    (told * torch.randn(2, 64)).sum().backward()
    assert o.step.embedding.mlp[-1].weight.grad.abs().sum() > 0
    with torch.no_grad():
        o.step.embedding.mlp[-1].weight.normal_()
    told = o.complete(Cond(), t, s).vector
    assert not torch.allclose(told[0], told[1]) and torch.equal(o.complete(Cond(), t).vector[1], told[1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"finest": 24}, "finest is 24"),
        ({"finest": 1}, "finest is 1"),
        ({"times": "per_frame"}, "one length for all frames"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        built(OBJECTIVES["shortcut"], settings)


def test_a_place_at_the_end_is_the_step():
    """The estimate of a jump lies on x_t at t and on the end of the step at s, on a curved path, too."""
    o, net = perfect(path="gvp")
    x, t, s = video(2), torch.tensor([0.9, 0.5], dtype=F64), torch.tensor([0.2, 0.0], dtype=F64)
    aimed = o.estimate(net, x, t, Cond(), s)
    assert torch.allclose(place(o.path, aimed, t), x, atol=1e-12)
    assert torch.allclose(place(o.path, aimed, s), expand(net.n(s) / net.n(t), x) * x, atol=1e-12)
