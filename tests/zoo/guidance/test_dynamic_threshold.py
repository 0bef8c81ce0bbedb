"""Dynamic thresholding."""

import pytest
import torch

from tests.zoo.guidance.conftest import same
from vidiff.registry import build
from zoo.guidance.dynamic_threshold import quantile

T = torch.tensor([0.7, 0.3], dtype=torch.float64)


def node(**settings):
    return build("guidance", {"name": "dynamic_threshold", "guidance": "none", **settings})


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.995, 1.0])
def test_quantiles_are_torchs(share):
    x = torch.randn(3, 4, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = x.flatten(1).quantile(share, dim=1)
    assert torch.allclose(quantile(x, share).flatten(), expected) and quantile(x, share).shape == (3, 1, 1, 1)


def test_by_hand(scene):
    """|x0| = 0, 1, 2, 3, 4: the 0.75-quantile is 3, so all is cut at 3 and divided by 3."""
    scene.x, t = torch.zeros(2, 5, dtype=torch.float64), torch.tensor([0.5, 0.2], dtype=torch.float64)
    x0 = torch.tensor([[0.0, -1, 2, 3, -4], [0.0, -0.1, 0.2, 0.3, -0.4]], dtype=torch.float64)
    scene.evaluate = lambda x, t, branches: [scene.explain(x0, t)]
    guided = scene.run(node(percentile=0.75), t)
    assert torch.allclose(guided.x0[0], torch.tensor([0.0, -1, 2, 3, -3]).double() / 3)
    assert torch.equal(guided.x0[1], x0[1]), "within the limit"
    assert torch.allclose(guided.x0, scene.run(node(percentile=0.75, limit=1.0), t).x0)
    half = scene.run(node(percentile=0.75, limit=1.5), t)
    assert torch.allclose(half.x0[0], torch.tensor([0.0, -1, 2, 3, -3]).double() / 2)


def test_the_answer_keeps_within_the_limit(scene):
    for percentile in (0.5, 0.9, 1.0):
        assert scene.run(node(percentile=percentile), T).x0.abs().max() <= 1 + 1e-12


def test_beliefs_within_the_limit_stay_in_bits(scene):
    assert same(scene.run(node(limit=100.0), T), scene.belief(scene.given.cond, T))
    inner = {"name": "cfg", "scale": 5.0}
    found = scene.run(node(guidance=inner, limit=1000.0), T)
    assert same(found, scene.run(build("guidance", inner), T))
