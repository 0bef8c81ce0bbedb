"""Several conditions: sums, rows side by side, and a drop of its own for each."""

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.diffuser import Diffuser
from vidiff.random import Random
from vidiff.registry import build
from vidiff.types import Grid

GRID = Grid(3, 4, 2, 5)
WIRING = dict(width=12, num_classes=4, grid=GRID)
KEEP = torch.zeros(2, dtype=torch.bool)
MIXED = [
    "label",
    {"name": "fps", "drop": 0.5},
    {"name": "frames", "frames": [0]},
    {"name": "frames", "frames": [-1], "route": "tokens"},
    {"name": "camera", "route": "poses"},
    {"name": "text_bytes", "dim": 8, "num_heads": 2, "length": 6, "gives": "tokens"},
    {"name": "camera", "route": "rays"},
]


def several(parts, **settings):
    torch.manual_seed(0)
    return build("conditioner", {"name": "several", "parts": parts, **settings}, **WIRING).eval()


def batch():
    random = torch.Generator().manual_seed(1)
    return {
        "label": torch.tensor([3, 0]),
        "fps": torch.tensor([8.0, 24.0]),
        "text": ["a", "bcd"],
        "latent": torch.randn(2, *GRID, generator=random),
        "camera": torch.randn(2, 8, 3, 4, generator=random),
        "intrinsics": torch.rand(2, 4, generator=random) + 1,
    }


def test_vectors_add_up_tokens_and_channels_stand_side_by_side():
    conditioner = several(MIXED)
    cond = conditioner(batch(), KEEP)
    parts = [part(batch(), KEEP) for part in conditioner.parts]
    assert torch.allclose(cond.vector, parts[0].vector + parts[1].vector)
    assert torch.equal(cond.channels, torch.cat([parts[2].channels, parts[6].channels], dim=1))
    widened = conditioner.widen[5](parts[5].tokens)
    assert torch.equal(cond.tokens, torch.cat([parts[3].tokens, parts[4].tokens, widened], dim=1))
    assert cond.mask.tolist() == [[True] * (10 + 4 + n) + [False] * (6 - n) for n in (2, 4)]
    spec = conditioner.spec
    assert (spec.vector, spec.tokens, spec.length, spec.channels) == (12, 12, 20, 10)
    assert conditioner.reads == {"label", "fps", "latent", "text", "camera", "intrinsics"}


def test_there_is_a_mask_where_a_part_has_one():
    poses, text = MIXED[4], MIXED[5]
    alone, both = several([poses, "label"]), several([poses, text])
    assert not alone.spec.masked and alone(batch(), KEEP).mask is None
    assert both.spec.masked and both(batch(), KEEP).mask[:, :4].all() and not both(batch(), KEEP).mask.all()


def test_each_has_its_own_column_and_the_last_is_for_all():
    conditioner = several(["label", "fps"])
    label, fps = conditioner.parts

    def vector(*columns):
        return conditioner(batch(), torch.tensor([columns, columns])).vector[0]

    told, asked = label(batch(), KEEP).vector[0], fps(batch(), KEEP).vector[0]
    no_label, no_fps = label.embedding.weight[4], fps.embedding.null
    assert torch.allclose(vector(False, False, False), told + asked)
    assert torch.allclose(vector(True, False, False), no_label + asked)
    assert torch.allclose(vector(False, True, False), told + no_fps)
    assert torch.allclose(vector(False, False, True), no_label + no_fps)
    assert torch.equal(conditioner(batch(), ~KEEP).vector[0], vector(True, True, False))


def test_drops_are_independent_and_as_often_as_each_says():
    """10,000 rows: shares within four standard deviations, and the joint share is the product."""
    conditioner = several(["label", {"name": "fps", "drop": 0.5}], drop_all=0.2)
    assert conditioner.drop == (0.1, 0.5, 0.2)
    diffuser = Diffuser(torch.nn.Identity(), conditioner, torch.nn.Identity(), torch.nn.Identity())
    drop = diffuser.draw_drop(Random(0, "train", rows=range(10_000)), 10_000)
    assert drop.shape == (10_000, 3) and drop.dtype == torch.bool
    for share, p in zip(drop.float().mean(0).tolist(), conditioner.drop, strict=True):
        assert abs(share - p) < 4 * (p * (1 - p) / 10_000) ** 0.5
    both = (drop[:, 0] & drop[:, 1]).float().mean().item()
    assert abs(both - 0.05) < 4 * (0.05 * 0.95 / 10_000) ** 0.5


def test_a_row_is_dropped_by_its_number_alone():
    conditioner = several(["label", "fps"])
    diffuser = Diffuser(torch.nn.Identity(), conditioner, torch.nn.Identity(), torch.nn.Identity())
    whole = diffuser.draw_drop(Random(3, "train", rows=range(40)), 40)
    part = diffuser.draw_drop(Random(3, "train", rows=range(20, 40)), 20)
    assert torch.equal(whole[20:], part) and whole.any() and not whole.all()


@pytest.mark.parametrize("parts", [[], ["label", {"name": "several", "parts": ["fps"]}]])
def test_nothing_and_several_within_several_are_refused(parts):
    with pytest.raises(ValueError, match="a list of at least one conditioner, none of them 'several'"):
        several(parts)
