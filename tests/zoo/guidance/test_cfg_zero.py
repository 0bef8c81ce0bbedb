"""CFG-Zero*."""

import pytest
import torch

from tests.zoo.guidance.conftest import close, same
from vidiff.diffusion.estimate import velocity
from vidiff.registry import PATHS, build

T = torch.tensor([0.7, 0.3], dtype=torch.float64)


def node(**settings):
    return build("guidance", {"name": "cfg_zero", "scale": 3.0, **settings})


def test_the_formula(scene):
    guided = velocity(scene.path, scene.run(node(), T), T)
    assert [len(asked) for asked in scene.asked] == [2]
    cond, uncond = (velocity(scene.path, scene.belief(b, T), T) for b in (scene.given.cond, scene.given.uncond))
    for i in range(2):
        s = (cond[i] * uncond[i]).sum() / uncond[i].square().sum()
        assert torch.allclose(guided[i], s * uncond[i] + 3 * (cond[i] - s * uncond[i]), atol=1e-9)
        assert abs(s - 1) > 0.05


def test_parallel_beliefs_leave_nothing_to_guide(scene):
    """Where the unconditional velocity is a multiple of the conditional one, the answer is the conditional one."""
    cond = scene.belief(scene.given.cond, T)
    v = build("prediction", "velocity")
    uncond = v.solve(scene.path, scene.x, 0.4 * v.ask(scene.path, cond, T), T)
    scene.evaluate = lambda x, t, branches: [cond if b is scene.given.cond else uncond for b in branches]
    assert close(scene.run(node(), T), cond)


@pytest.mark.parametrize("path", ["linear", "gvp", "cosine", "vp", "ve"])
def test_at_first_nothing_moves_and_nobody_is_asked(scene, path):
    scene.path = PATHS[path].build()
    scene.given = type(scene.given)(scene.given.cond, scene.given.uncond, scene.path)
    t = torch.tensor([1.0, 0.97], dtype=torch.float64)
    still = scene.run(node(zero_init=0.04), t)
    assert velocity(scene.path, still, t).abs().max() < 1e-9 * scene.path.norm(t).max() and scene.asked == []
    assert torch.allclose(scene.path.point(*still, t), scene.x, atol=1e-9)


def test_after_the_first_steps_the_network_is_asked(scene):
    t = torch.tensor([0.96, 0.5], dtype=torch.float64)
    assert close(scene.run(node(zero_init=0.04), t), scene.run(node(zero_init=0.0), t)) and len(scene.asked) == 2


def test_frames_begin_each_on_its_own(scene):
    t = torch.tensor([[1.0, 0.5, 0.99, 0.3], [0.2, 0.4, 0.6, 0.98]], dtype=torch.float64)
    some, all_ = (scene.run(node(zero_init=z), t) for z in (0.04, 0.0))
    early = (t > 0.96)[:, None, :, None, None].expand_as(scene.x)
    assert (velocity(scene.path, some, t)[early]).abs().max() < 1e-9
    assert torch.equal(some.x0[~early], all_.x0[~early])


def test_clean_frames_beside_noisy_ones_stay_what_they_are():
    """On vp the velocity is infinite at t = 0; the other frames' scale must not hear of it."""
    from tests.zoo.guidance.conftest import Scene

    scene = Scene("vp")
    t = torch.tensor([[0.0, 0.5, 0.9, 0.3], [0.2, 0.0, 0.6, 0.1]], dtype=torch.float64)
    scene.explain = lambda x0, t: type(scene).explain(scene, x0, t.clamp(min=1e-3))
    guided = scene.run(node(), t)
    clean = (t == 0)[:, None, :, None, None].expand_as(scene.x)
    assert torch.allclose(guided.x0[clean], scene.x[clean]) and all(e.isfinite().all() for e in guided)


def test_off_is_the_conditional_belief_in_bits(scene):
    off = node(scale=1.0, zero_init=0.0)
    t = torch.tensor([1.0, 0.5], dtype=torch.float64)
    assert same(scene.run(off, t), scene.belief(scene.given.cond, t)) and not off.needs_uncond


def test_it_is_the_same_on_the_path_whatever_the_network_predicts(exact):
    evaluate, given = exact("linear")
    x, t = torch.linspace(-2, 2, 15, dtype=torch.float64).reshape(5, 3), torch.linspace(0.1, 0.9, 5).double()
    plain = node()(evaluate, given)(x, t)
    for name in ("v", "x0", "velocity"):
        p = build("prediction", name)
        through = lambda x, t, b: [p.solve(given.path, x, p.ask(given.path, e, t), t) for e in evaluate(x, t, b)]  # noqa: E731, B023
        assert close(node()(through, given)(x, t), plain, 1e-9)
