"""What every backbone promises that is the answer for data of a known law, and no network: it has no weights."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

import zoo  # noqa: F401
from tests.oracle import three
from tests.teacher import built
from vidiff.diffusion.mixture import Mixture
from vidiff.diffusion.path import expand
from vidiff.registry import BACKBONES, OBJECTIVES, build
from vidiff.types import Cond, CondSpec, Grid

GRID, CLASSES, B = Grid(2, 3, 1, 4), 3, 4
F64 = torch.float64


@pytest.fixture(params=[c.name for c in BACKBONES if getattr(c.target, "exact", False)])
def name(request):
    return request.param


def law():
    plain = three(24)
    return Mixture(plain.weights, plain.means, plain.covariances, torch.arange(CLASSES))


def make(name, objective="rectified_flow", **settings):
    objective = OBJECTIVES[objective].build(settings) if isinstance(objective, str) else objective
    return BACKBONES[name].build(
        BACKBONES[name].tiny, grid=GRID, out_channels=GRID.c * objective.outputs, cond=CondSpec(vector=CLASSES),
        attention=build("attention", "sdpa"), positions=partial(build, "positions", "sincos"),
        objective=objective, law=law(),
    )  # fmt: skip


def ask(dtype=F64):
    x = torch.randn(B, *GRID, generator=torch.Generator().manual_seed(2), dtype=dtype)
    one_hot = torch.eye(CLASSES)[[2, 0, 1, 1]]
    one_hot[3] = 0  # of no class
    return x, torch.tensor([0.9, 0.2, 0.6, 0.4], dtype=dtype), Cond(vector=one_hot)


def test_its_answer_is_the_posterior_mean_in_every_prediction_scale_and_label(name):
    """The network is asked as the objective asks it; what is believed is what the law says, row by row."""
    x, t, cond = ask()
    for objective in (o.name for o in OBJECTIVES):
        try:
            net = make(name, objective)
        except (ValueError, TypeError):
            continue  # refused, or wired with another run
        (o,) = net.objective
        found = o.estimate(net, x, t, cond)
        for row, label in enumerate((2, 0, 1, None)):
            told = law() if label is None else law().of_class(label)
            exact = told.estimate(o.path)(x[row : row + 1], t[row : row + 1])
            assert torch.allclose(found.x0[row], exact.x0[0], rtol=1e-8, atol=1e-9), objective
            assert torch.allclose(found.noise[row], exact.noise[0], rtol=1e-8, atol=1e-9), objective


def test_most_objectives_are_answered_and_the_others_refused_with_the_reason(name):
    reasons = {}
    for component in OBJECTIVES:
        try:
            make(name, built(component, component.tiny))
        except ValueError as error:
            reasons[component.name] = str(error)
    assert all("where trajectories lead has no closed form" in reason for reason in reasons.values())
    assert set(reasons) == {c.name for c in OBJECTIVES if getattr(c.target, "tells", {"velocity"}) != {"velocity"}}


def test_a_time_per_frame_is_heard(name):
    net = make(name, "diffusion_forcing")
    x, t, cond = ask()
    assert torch.allclose(net(x, t[:, None].expand(B, GRID.t), cond), net(x, t, cond), atol=1e-9)
    each = torch.rand(B, GRID.t, generator=torch.Generator().manual_seed(3), dtype=F64)
    answer = net(x, each, cond)
    (o,) = net.objective
    for row in range(B):  # the formula, with dense matrices
        told = law() if row == 3 else law().of_class(int(cond.vector[row].argmax()))
        alpha, sigma = (
            expand(c(each[row : row + 1]), x[:1]).expand(1, *GRID).flatten() for c in (o.path.alpha, o.path.sigma)
        )
        logs, x0s, noises = [], [], []
        for w, mean, cov in zip(told.weights, told.means, told.covariances, strict=True):
            c = alpha[:, None] * cov * alpha + torch.diag(sigma**2)
            y = x[row].flatten() - alpha * mean
            solved = torch.linalg.inv(c) @ y
            logs.append(w.log() + torch.distributions.MultivariateNormal(alpha * mean, c).log_prob(x[row].flatten()))
            x0s.append(mean + cov @ (alpha * solved))
            noises.append(sigma * solved)
        r = torch.stack(logs).softmax(0)[:, None]
        believed = [(r * torch.stack(parts)).sum(0).reshape(1, *GRID) for parts in (x0s, noises)]
        expected = o.prediction.target(o.path, *believed, each[row : row + 1])
        assert torch.allclose(answer[row], expected[0], atol=1e-8)


def test_learned_variances_are_those_of_least_bound(name):
    """Any other answer has a larger bound, on average over the posterior: checked by its slope and curvature."""
    net = make(name, "iddpm", num_steps=20)
    (o,) = net.objective
    data, t = law(), torch.full((4000,), 0.6, dtype=F64)
    x0 = data.sample(4000, 1).reshape(-1, *GRID)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=F64)

    def bound(shift):
        def moved(x, label, cond):
            y, v = net(x, label, cond).chunk(2, dim=1)
            return torch.cat([y, v + shift], dim=1)

        return o.loss_at(moved, x0, noise, t, Cond())["bound"]

    here, plus, minus = bound(0.0), bound(0.2), bound(-0.2)
    slope = plus - minus
    assert abs(slope.mean()) < 5 * slope.std() / 4000**0.5 + 0.02 * (plus + minus - 2 * here).mean()
    assert plus.mean() > here.mean() and minus.mean() > here.mean()


def test_samples_keep_apart(name):
    net, (x, t, cond) = make(name), ask()
    clean = net(x, t, cond)
    for row in range(B):
        alone = net(x[row : row + 1], t[row : row + 1], Cond(vector=cond.vector[row : row + 1]))
        assert torch.allclose(alone[0], clean[row], atol=1e-12)
    x[1] = torch.nan
    spoilt = net(x, t, cond)
    assert torch.equal(spoilt[[0, 2, 3]], clean[[0, 2, 3]]) and spoilt[1].isnan().all()


def test_it_has_nothing_to_learn_and_nothing_to_save(name):
    net, asked = make(name), ask()
    assert not list(net.parameters()) and not net.state_dict()
    copied = copy.deepcopy(net)
    copied.load_state_dict({})
    assert torch.equal(copied(*asked), net(*asked))


def test_it_is_a_function(name):
    net, (x, t, cond) = make(name), ask()
    kept, before = x.clone(), torch.get_rng_state()
    assert torch.equal(net(x, t, cond), net(x, t, cond))
    assert torch.equal(x, kept) and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions_follow_float64(name, dtype):
    net, (x, t, cond) = make(name), ask()
    y = net(x.to(dtype), t.to(dtype), cond)
    near = 1e-4 if dtype == torch.float32 else 0.1
    assert y.dtype == dtype and torch.allclose(y.double(), net(x, t, cond), rtol=near, atol=near)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = net(x.float(), t.float(), cond)
    assert torch.allclose(mixed.double(), net(x, t, cond), rtol=1e-4, atol=1e-4), "no belief is computed in halves"


def test_it_answers_shapes_on_the_meta_device(name):
    net = make(name)
    with torch.device("meta"):
        wired = dict(grid=GRID, cond=CondSpec(vector=CLASSES), objective=net.objective[0], law=net.law)
        y = BACKBONES[name].build({}, **wired)(
            torch.empty(B, *GRID), torch.empty(B), Cond(vector=torch.empty(B, CLASSES))
        )
    assert y.is_meta and y.shape == (B, *GRID)


def test_another_grid_another_condition_and_unknown_laws_are_refused(name):
    with pytest.raises(ValueError, match="not of 2x3x4x1"):
        make(name).check(Grid(2, 3, 4, 1))
    component, wired = BACKBONES[name], dict(grid=GRID, objective=build("objective", "rectified_flow"))
    with pytest.raises(ValueError, match="Use conditioner: one_hot"):
        component.build({}, cond=CondSpec(vector=CLASSES + 1), law=law(), **wired)
    with pytest.raises(ValueError, match="the law of these latents is not known. Use data: gaussian_mixture"):
        component.build({}, cond=CondSpec(), law=None, **wired)


def test_without_a_class_it_knows_the_whole_law(name):
    net, (x, t, cond) = make(name), ask()
    assert torch.equal(net(x, t, Cond())[3], net(x, t, cond)[3])
    assert not torch.allclose(net(x, t, replace(cond, vector=cond.vector.flip(0))), net(x, t, cond))
