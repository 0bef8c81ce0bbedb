"""A scale for each of several conditions."""

import pytest
import torch

from tests.zoo.guidance.conftest import close, same
from vidiff.diffuser import Diffuser
from vidiff.diffusion.guidance import Guidance
from vidiff.registry import build

T = torch.tensor([0.7, 0.3], dtype=torch.float64)


def node(scales, form="nested"):
    return build("guidance", {"name": "per_condition", "scales": scales, "form": form})


def beliefs(scene, *which):
    return [scene.belief(scene.only(parts) if parts else scene.given.uncond, T) for parts in which]


def test_instruct_pix2pix(scene):
    """u + 1.5 (e(c1) - u) + 7 (e(c1,c2) - e(c1)), in one call of three branches."""
    found = scene.run(node([1.5, 7.0]), T)
    assert [len(asked) for asked in scene.asked] == [3]
    (u, first), both = beliefs(scene, (), (0,)), scene.belief(scene.given.cond, T)
    for a, x, y, z in zip(found, u, first, both, strict=True):
        assert torch.allclose(a, x + 1.5 * (y - x) + 7 * (z - y))


def test_composed(scene):
    found = scene.run(node([2.0, 3.0, 0.5], "composed"), T)
    assert [len(asked) for asked in scene.asked] == [4]
    u, *each = beliefs(scene, (), (0,), (1,), (2,))
    for a, x, p, q, r in zip(found, u, *each, strict=True):
        assert torch.allclose(a, x + 2 * (p - x) + 3 * (q - x) + 0.5 * (r - x))


def test_equal_scales_are_cfg(scene):
    assert close(scene.run(node([3.0, 3.0, 3.0]), T), scene.run(build("guidance", {"name": "cfg", "scale": 3.0}), T))


def test_scales_of_one_and_zero_are_one_branch_in_bits(scene):
    assert same(scene.run(node([1.0, 1.0]), T), scene.belief(scene.given.cond, T))
    for form in ("nested", "composed"):
        assert same(scene.run(node([0.0, 0.0], form), T), scene.belief(scene.given.uncond, T))
    assert [len(asked) for asked in scene.asked] == [1, 1, 1] and not node([1.0, 1.0]).needs_uncond


@pytest.fixture
def model():
    """A network that tells its condition: label in one half of the vector, fps in the other."""
    torch.manual_seed(0)
    parts = {"name": "several", "parts": ["label", "fps"]}
    conditioner = build("conditioner", parts, width=6, num_classes=5, grid=(2, 3, 4, 5))
    tokenizer = build("tokenizer", {"name": "tubelet", "size": [1, 1, 1]})

    class Teller(torch.nn.Module):
        def forward(self, x, time, cond):
            return cond.vector[:, :2, None, None, None].expand_as(x).contiguous()

    return Diffuser(tokenizer, conditioner, Teller(), build("objective", "rectified_flow"))


@torch.no_grad()
def test_only_some_conditions_are_kept(model):
    """Through the conditioner: dropping a part is that part's own null."""
    batch = {"label": torch.tensor([1, 4]), "fps": torch.tensor([8.0, 24.0])}
    asked = []

    class Look(Guidance):
        def __call__(self, evaluate, given):
            asked.extend(given.only(parts) for parts in ([0], [1], [], [0, 1]))
            asked.extend([given.cond, given.uncond])

    model.estimator(Look(), batch, 2)
    label, fps, neither, both, cond, uncond = (branch.cond.vector for branch in asked)
    keep, drop = torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    by_hand = [part({**batch}, which).vector for part, which in zip(model.conditioner.parts, (keep, drop), strict=True)]
    assert torch.allclose(label, sum(by_hand)) and torch.equal(both, cond) and torch.equal(neither, uncond)
    assert torch.allclose(label + fps, both + neither, atol=1e-6), "vectors add up"
    assert not torch.allclose(label, both) and not torch.allclose(label, neither)


def test_another_number_of_scales_is_refused(model):
    node([2.0, 3.0]).check(model)
    with pytest.raises(ValueError, match="2 conditions and 3 scales"):
        node([1.0, 2.0, 3.0]).check(model)
    model.conditioner = build("conditioner", "label", width=6, num_classes=5)
    with pytest.raises(ValueError, match="Use conditioner several"):
        node([1.0, 2.0]).check(model)
