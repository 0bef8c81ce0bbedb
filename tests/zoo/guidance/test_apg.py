"""Adaptive projected guidance."""

import pytest
import torch

from tests.zoo.guidance.conftest import close, same
from vidiff.registry import build

T = torch.tensor([0.7, 0.3], dtype=torch.float64)


def node(**settings):
    return build("guidance", {"name": "apg", "scale": 3.0, "eta": 1.0, "threshold": 0.0, "momentum": 0.0, **settings})


def x0_of(scene, t=T):
    return [scene.belief(b, t).x0 for b in (scene.given.cond, scene.given.uncond)]


def test_with_everything_off_it_is_cfg(scene):
    assert close(scene.run(node(), T), scene.run(build("guidance", {"name": "cfg", "scale": 3.0}), T))
    assert [len(asked) for asked in scene.asked] == [2, 2]


def test_scale_one_is_the_conditional_belief_in_bits(scene):
    assert same(scene.run(node(scale=1.0), T), scene.belief(scene.given.cond, T))
    assert scene.asked == [[scene.given.cond]]


def test_by_hand(scene):
    """cond (3,4,0), uncond (1,0,0): d = (2,4,0), parallel (22/25)(3,4,0) = (2.64,3.52,0), the rest (-0.64,0.48,0)."""
    x0 = {scene.given.cond: [3.0, 4.0, 0.0], scene.given.uncond: [1.0, 0.0, 0.0]}
    scene.x, t = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    scene.evaluate = lambda x, t, branches: [scene.explain(torch.tensor([x0[b]]).double(), t) for b in branches]
    expected = torch.tensor([[3 + 2 * (-0.64 + 0.25 * 2.64), 4 + 2 * (0.48 + 0.25 * 3.52), 0.0]]).double()
    assert torch.allclose(scene.run(node(eta=0.25), t).x0, expected)
    bounded = torch.tensor([[3.0, 4.0, 0.0]]).double() + 2 * torch.tensor([[2.0, 4.0, 0.0]]).double() * 2 / 20**0.5
    assert torch.allclose(scene.run(node(threshold=2.0), t).x0, bounded)
    assert torch.allclose(scene.run(node(threshold=5.0), t).x0, torch.tensor([[7.0, 12.0, 0.0]]).double())


def test_eta_zero_leaves_nothing_along_the_condition(scene):
    guided = scene.run(node(eta=0.0), T).x0
    cond, _ = x0_of(scene)
    assert ((guided - cond) * cond).sum((1, 2, 3, 4)).abs().max() < 1e-9 and (guided - cond).abs().max() > 0.1


def test_momentum_adds_what_was_before(scene):
    estimate = node(momentum=-0.5)(scene.evaluate, scene.given)
    cond, uncond = x0_of(scene)  # the same at every step
    d = cond - uncond
    for t, weight in ((0.9, 1.0), (0.6, 0.5), (0.3, 0.75)):
        assert torch.allclose(estimate(scene.x, torch.full((2,), t).double()).x0, cond + 2 * weight * d)


def test_a_sample_that_is_asked_the_same_again_gets_the_same_answer(scene):
    """As one is that has arrived while others of its batch, under dopri5, have not."""
    estimate = node(momentum=-0.5)(scene.evaluate, scene.given)
    cond, uncond = x0_of(scene)
    d = cond - uncond
    for t, weights in (
        ((0.9, 0.9), (1.0, 1.0)),
        ((0.6, 0.5), (0.5, 0.5)),
        ((0.6, 0.4), (0.5, 0.75)),
        ((0.3, 0.4), (0.75, 0.75)),
    ):
        found = estimate(scene.x, torch.tensor(t).double()).x0
        assert all(torch.allclose(found[i], (cond + 2 * weights[i] * d)[i]) for i in (0, 1)), t
    again = estimate(scene.x.clone(), torch.tensor(t).double()).x0
    assert torch.equal(again, found)


def test_a_new_descent_starts_anew_within_one_run_and_across_runs(scene):
    """Windows of a roll-out share an estimate; samplers that step back up a little go on."""
    guidance = node(momentum=-0.5)
    cond, uncond = x0_of(scene)
    weights = {0.9: 1.0, 0.6: 0.5, 0.7: 0.75}
    for _ in range(2):
        estimate = guidance(scene.evaluate, scene.given)
        for t in (0.9, 0.6, 0.7, 0.9, 0.6):
            expected = cond + 2 * weights[t] * (cond - uncond)
            assert torch.allclose(estimate(scene.x, torch.full((2,), t).double()).x0, expected), t


def test_nothing_is_parallel_to_a_belief_of_zero(scene):
    scene.evaluate = lambda x, t, branches: [
        scene.explain(torch.zeros_like(scene.x) if b is scene.given.cond else scene.draw(1), t) for b in branches
    ]
    assert torch.allclose(scene.run(node(eta=0.0), T).x0, -2 * scene.draw(1))


@pytest.mark.parametrize("setting", [{"momentum": 1.5}, {"eta": -1.0}, {"threshold": -2.0}])
def test_settings_out_of_range_are_refused_with_the_range(tmp_path, setting):
    from vidiff.config.checking import refuses
    from vidiff.registry import GUIDANCE

    ((name, value),) = setting.items()
    assert refuses(GUIDANCE["apg"].settings[name].annotation, value)
