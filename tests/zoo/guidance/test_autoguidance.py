"""Guidance by a bad version of the model."""

import torch

from tests.zoo.guidance.conftest import close, same
from vidiff.registry import build

T = torch.tensor([0.7, 0.3], dtype=torch.float64)


class Weak:
    def __init__(self, scene):
        self.scene, self.conditions = scene, []

    def estimator(self, cond, guidance=None):
        self.conditions.append(cond)
        return lambda x, t: self.scene.explain(self.scene.draw(99), t)


def node(weak, **settings):
    return build("guidance", {"name": "autoguidance", "weak": "runs/weak", **settings}, load=lambda run: weak)


def test_the_formula(scene):
    weak = Weak(scene)
    found = scene.run(node(weak, scale=2.5), T)
    good, bad = scene.belief(scene.given.cond, T), scene.explain(scene.draw(99), T)
    assert close(found, [2.5 * g - 1.5 * b for g, b in zip(good, bad, strict=True)])
    assert weak.conditions == [scene.given.cond.cond] and scene.asked == [[scene.given.cond]]


def test_around_cfg_one_call_still_and_the_sum_of_both(scene):
    found = scene.run(node(Weak(scene), scale=2.5, guidance={"name": "cfg", "scale": 3.0}), T)
    assert [len(asked) for asked in scene.asked] == [2]
    cfg = scene.run(build("guidance", {"name": "cfg", "scale": 3.0}), T)
    good, bad = scene.belief(scene.given.cond, T), scene.explain(scene.draw(99), T)
    assert close(found, [a + 1.5 * (g - b) for a, g, b in zip(cfg, good, bad, strict=True)])


def test_scale_one_asks_the_weak_one_nothing(scene):
    weak = Weak(scene)
    assert same(scene.run(node(weak, scale=1.0), T), scene.belief(scene.given.cond, T)) and weak.conditions == []
