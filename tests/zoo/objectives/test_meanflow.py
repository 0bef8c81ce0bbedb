"""The MeanFlow identity for true average velocities; its derivative against finite differences."""

from functools import partial

import pytest
import torch

import zoo.attention
import zoo.backbones
import zoo.objectives
import zoo.positions
import zoo.samplers  # noqa: F401
from tests.teacher import built
from tests.zoo.objectives.test_shortcut import FlowMap, Told, V, video
from vidiff.diffusion.estimate import Aiming, Estimate, velocity
from vidiff.diffusion.path import expand
from vidiff.gate import gate
from vidiff.random import Random
from vidiff.registry import OBJECTIVES, build
from vidiff.types import Cond, CondSpec, Grid

F64 = torch.float64
T, S = torch.tensor([0.9, 0.6, 0.5, 0.99], dtype=F64), torch.tensor([0.1, 0.55, 0.0, 0.01], dtype=F64)


def perfect(**settings):
    o = built(OBJECTIVES["meanflow"], settings)
    o.step = Told()
    return o, FlowMap(o)


@pytest.mark.parametrize("prediction", ["velocity", "x0", "v"])
def test_the_identity_holds_for_true_average_velocities(prediction):
    """u = v - (t - s) d/dt u along the marginal velocity v, in closed form on Gaussian data (eq. 6)."""
    o, net = perfect(prediction=prediction)
    x = video(4)
    n2 = expand(net.n(T) ** 2, x)
    marginal = Estimate(expand((1 - T) * V, x) * x / n2, expand(T, x) * x / n2)
    v = velocity(o.path, marginal, T)
    u = velocity(o.path, o.estimate(net, x, T, Cond(), S), T)
    assert torch.allclose(u, (x - expand(net.n(S) / net.n(T), x) * x) / expand(T - S, x), atol=1e-12)
    change = o.change(net, x, T, Cond(), S, v)
    assert torch.allclose(u, v - expand(T - S, x) * change, atol=1e-10)
    assert not torch.allclose(u, v + expand(T - S, x) * change, atol=1e-2)


def test_true_average_velocities_are_not_pulled_away():
    """With the velocity of each pair in the place of the marginal one the residual has mean zero given x_t."""
    o, net = perfect(power=0.0)
    num = 60000
    t, s = torch.full((num,), 0.7, dtype=F64), torch.full((num,), 0.2, dtype=F64)
    x0, noise = V**0.5 * video(num, 3), video(num, 4)
    x = o.path.point(x0, noise, t)
    v = noise - x0
    residual = velocity(o.path, o.estimate(net, x, t, Cond(), s), t) - (v - 0.5 * o.change(net, x, t, Cond(), s, v))
    for moment in (residual, residual * x, residual * x**2):
        each = moment.flatten(1).mean(1)
        assert each.mean().abs() < 5 * each.std() / num**0.5
    wrong = velocity(o.path, o.estimate(net, x, t, Cond(), s), t) - v
    each = (wrong * x).flatten(1).mean(1)
    assert each.mean().abs() > 20 * each.std() / num**0.5, "the test would notice"


def network(attention, **settings):
    """A small transformer in float64 with slow time frequencies, whose sinusoids (float32) finite differences bear."""
    o = built(OBJECTIVES["meanflow"], {"step_scale": 1.0}, width=64)
    net = build(
        "backbone", {"name": "dit_joint", "dim": 64, "depth": 2, "num_heads": 2, "time_scale": 1.0, **settings},
        grid=Grid(3, 2, 2, 3), out_channels=3, cond=CondSpec(vector=64), attention=attention,
        positions=partial(build, "positions", "sincos"),
    ).double()  # fmt: skip
    dice = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in [*net.parameters(), *o.parameters()]:
            p.copy_(torch.randn(p.shape, generator=dice) * 0.15)
    return o.double(), net


@pytest.mark.parametrize("attention", ["math", "matmul", {"name": "sdpa", "kernel": "math"}], ids=str)
@pytest.mark.parametrize("recompute", [False, True])
def test_the_derivative_is_that_of_finite_differences(attention, recompute):
    o, net = network(gate(build("attention", attention), f"for meanflow {attention}"), recompute=recompute)
    x, v = (torch.randn(2, 3, 2, 2, 3, generator=torch.Generator().manual_seed(i), dtype=F64) for i in (1, 2))
    t, s, h = torch.tensor([0.8, 0.4], dtype=F64), torch.tensor([0.3, 0.1], dtype=F64), 1e-2

    def u(k):
        return velocity(o.path, o.estimate(net, x + k * h * v, t + k * h, Cond(), s), t)

    with torch.no_grad():
        fourth_order = (8 * (u(1) - u(-1)) - (u(2) - u(-2))) / (12 * h)
    found = o.change(net, x, t, Cond(), s, v)
    assert torch.allclose(found, fourth_order, atol=2e-4 * found.abs().max().item()) and found.abs().max() > 0.01
    assert not found.requires_grad


def test_the_target_sends_no_gradient_and_the_step_length_learns():
    o, net = network(build("attention", "math"))
    x = torch.randn(2, 3, 2, 2, 3, dtype=F64)
    asked = []
    o.change = lambda *args: asked.append(args) or torch.zeros_like(x)
    t, s = torch.tensor([0.8, 0.4], dtype=F64), torch.tensor([0.3, 0.4], dtype=F64)
    o.loss_at(net, x, torch.randn_like(x), t, Cond(), s)["loss"].backward()
    assert len(asked) == 1 and o.step.embedding.mlp[-1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("prediction", ["velocity", "x0"])
def test_the_target_is_the_velocity_less_what_the_average_changes(prediction):
    """u_target = v - (t - s) du/dt (eq. 10), in the space of the prediction: a network that answers it loses nothing."""
    o = built(OBJECTIVES["meanflow"], {"prediction": prediction})
    x0, noise, change = video(2), video(2, 2), video(2, 3)
    t, s = torch.tensor([0.8, 0.4], dtype=F64), torch.tensor([0.3, 0.1], dtype=F64)
    o.change = lambda *args: change
    x, u = o.path.point(x0, noise, t), noise - x0 - expand(t - s, x0) * change
    wanted = {"velocity": u, "x0": x - expand(t, x) * u}[prediction]
    assert o.loss_at(lambda x, label, cond: wanted, x0, noise, t, Cond(), s)["mse"].max() < 1e-20


def test_errors_are_divided_by_themselves():
    """w = 1 / (|error|^2 + floor)^power (eq. 22), without gradient: at power 1 every clip counts about alike."""
    o, plain = (built(OBJECTIVES["meanflow"], {"power": p, "floor": 0.01}) for p in (0.75, 0.0))
    x0, noise, t = video(3), video(3, 2), torch.tensor([0.3, 0.6, 0.9], dtype=F64)
    scale = torch.nn.Parameter(torch.ones((), dtype=F64))

    def net(x, label, cond):
        return scale * x

    weighted, bare = o.loss_at(net, x0, noise, t, Cond()), plain.loss_at(net, x0, noise, t, Cond())
    mse = bare["mse"]
    assert torch.allclose(weighted["loss"], (mse / (mse + 0.01) ** 0.75).mean()) and torch.allclose(
        bare["loss"], mse.mean()
    )
    each = torch.stack(
        [
            torch.autograd.grad(plain.loss_at(net, *(a[i : i + 1] for a in (x0, noise, t)), Cond())["loss"], scale)[0]
            for i in range(3)
        ]
    )
    (gradient,) = torch.autograd.grad(weighted["loss"], scale)
    assert torch.allclose(gradient, (each / (mse + 0.01) ** 0.75).mean())


def test_pairs_of_times_are_ordered_and_a_share_differs():
    o = built(OBJECTIVES["meanflow"], {"different": 0.3})
    seen = []
    o.loss_at = lambda net, x0, noise, t, cond, s: seen.append((t, s))
    num = 4000
    o.loss(None, torch.zeros(num, 1, 1, 1, 1), Cond(), Random(2, "m", rows=range(num)))
    t, s = seen[0]
    assert (s <= t).all() and abs((s < t).double().mean() - 0.3) < 0.03
    center = torch.logit(torch.cat([t[s == t], t[s < t], s[s < t]]))
    assert center.std() == pytest.approx(1.0, abs=0.1), "logit-normal(-0.4, 1), the later of two where they are equal"


def test_strata_leave_long_steps():
    """Each of a pair's times is one draw in every slice; one permutation for both would leave steps of a slice alone."""
    o, seen, num = built(OBJECTIVES["meanflow"], {"different": 1.0, "times": "stratified"}), [], 500
    o.loss_at = lambda net, x0, noise, t, cond, s: seen.append((t, s))
    o.loss(None, torch.zeros(num, 1, 1, 1, 1), Cond(), Random(2, "m", rows=range(num)))
    t, s = seen[0]
    assert torch.equal((torch.cat([t, s]) * num).long().bincount(), torch.full((num,), 2)), "stratified, each of them"
    assert (t - s).mean() == pytest.approx(1 / 3, abs=0.05), "E |a - b| of independent uniform numbers"


def test_one_jump_of_true_average_velocities_is_the_flow_map():
    o, net = perfect()
    sampler, noise = build("sampler", "jump"), video(5)
    estimate = Aiming(lambda x, t, s: o.estimate(net, x, t, Cond(), s))
    assert sampler.evaluations == 1
    with torch.no_grad():
        out = sampler(estimate, noise, sampler.spacing(1, o.path, (0.0, 1.0)), o.path, None)
    assert torch.allclose(out, V**0.5 * noise, atol=1e-12)


@pytest.mark.parametrize("path", ["gvp", "cosine", "vp"])
def test_curved_paths_are_refused(path):
    with pytest.raises(ValueError, match="along a straight line. Use path: linear or ve"):
        built(OBJECTIVES["meanflow"], {"path": path, "prediction": "v"})


@pytest.mark.parametrize("name", ["auto", "sdpa", "window"])
def test_attention_without_a_forward_derivative_is_refused(name):
    o, net = network(gate(build("attention", name), name))
    with pytest.raises(ValueError, match="Use attention: math or attention: matmul"):
        o.check(net, frozenset())
    for able in ("math", "matmul"):
        o, net = network(gate(build("attention", able), able))
        o.check(net, frozenset())
