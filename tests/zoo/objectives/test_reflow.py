"""Pairs of noise and what a teacher draws from it: deterministic, the teacher's, and straighter."""

import pytest
import torch

import zoo.guidance
import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import Mixture, three
from tests.teacher import Teacher, built
from vidiff.diffusion.estimate import Estimate
from vidiff.diffusion.straightness import straightness
from vidiff.random import Random
from vidiff.registry import OBJECTIVES, build
from vidiff.types import Cond

B, D = 6, 3
F64 = torch.float64


def reflowing(mixture, **settings):
    path = build("path", "linear")
    return built(OBJECTIVES["reflow"], settings, Teacher(path, mixture.estimate(path)))


def rows(num=B):
    return Random(4, "train", rows=range(num))


def seen_by(o, x0, random):
    """What the loss is asked at."""
    seen = []
    o.loss_at = lambda net, x0, noise, t, cond: seen.append((x0, noise, t))
    o.loss(None, x0, Cond(), random)
    return seen[0]


@pytest.mark.parametrize("sampler", ["euler", "heun", "ancestral"])
def test_pairs_are_what_the_teacher_draws_from_the_noise_of_that_sample_number(sampler):
    mixture = three(D)
    o = reflowing(mixture, sampler={"name": sampler, "steps": 7})
    x0 = torch.zeros(B, D, 1, 1, 1, dtype=F64)
    drawn, noise, t = seen_by(o, x0, rows())
    assert t.shape == (B,) and drawn.shape == x0.shape
    if sampler != "ancestral":
        times = torch.linspace(1, 0, 8, dtype=F64)
        alone = build("sampler", sampler)(mixture.estimate(o.path), noise, times, o.path, None)
        assert torch.allclose(drawn, alone, atol=1e-12)
    again = seen_by(reflowing(mixture, sampler={"name": sampler, "steps": 7}), x0 + 1, rows())
    assert all(torch.equal(a, b) for a, b in zip((drawn, noise, t), again)), "of the data only the shape is used"
    one = seen_by(reflowing(mixture, sampler={"name": sampler, "steps": 7}), x0[:1], Random(4, "train", rows=[2]))
    assert all(torch.allclose(a[2:3], b, atol=1e-12) for a, b in zip((drawn, noise, t), one))


def test_straightness_is_zero_for_straight_lines_and_the_closed_form_for_an_arc():
    """x_t = x0 + (noise - x0) t^2 has dx/dt = 2 t (noise - x0): S = |noise - x0|^2 times the integral of (2t - 1)^2 = 1/3."""
    path, times = build("path", "linear"), torch.linspace(1, 0, 2001, dtype=F64)
    noise, x0 = torch.randn(4, D, dtype=F64), torch.randn(4, D, dtype=F64)
    straight = straightness(lambda x, t: Estimate(x0, noise), noise, times, path)
    assert straight.abs().max() < 1e-20

    def arc(x, t):
        v = 2 * t[:, None] * (noise - x0)
        return Estimate(x - t[:, None] * v, x + (1 - t[:, None]) * v)

    found = straightness(arc, noise, times, path)
    assert torch.allclose(found, ((noise - x0) ** 2).mean(1) / 3, rtol=2e-3)


def two_modes():
    return Mixture(
        torch.tensor([0.6, 0.4]), torch.tensor([[-1.2], [1.3]], dtype=F64), torch.tensor([[[0.1]], [[0.2]]], dtype=F64)
    )


def test_the_reflowed_coupling_is_straighter_on_the_exact_mixture():
    """In one dimension the teacher's map is monotone, so its lines never cross: their velocity is known in closed form.

    The exact velocity of the mixture bends; that of the coupling which reflow learns from does not.
    """
    mixture, path = two_modes(), build("path", "linear")
    times = torch.linspace(1, 0, 401, dtype=F64)
    grid = torch.linspace(-6, 6, 4001, dtype=F64)[:, None]
    end = build("sampler", "heun")(mixture.estimate(path), grid, times, path, None)
    assert (end.diff(dim=0) > 0).all(), "monotone"

    def reflowed(x, t):
        """E[noise - x0 | x_t] of the pairs (noise, end): the one pair whose line passes through x at t."""
        line = (1 - t[0]) * end[:, 0] + t[0] * grid[:, 0]
        i = torch.searchsorted(line, x[:, 0].contiguous()).clamp(1, len(line) - 1)
        share = ((x[:, 0] - line[i - 1]) / (line[i] - line[i - 1]))[:, None]
        noise, x0 = (torch.lerp(of[i - 1], of[i], share) for of in (grid, end))
        return Estimate(x0, noise)

    noise = torch.randn(3000, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    before = straightness(mixture.estimate(path), noise, times, path).mean()
    after = straightness(reflowed, noise, times, path).mean()
    assert before > 0.05 and after < 1e-4 * before
    one_step = build("sampler", "euler")
    ends = [
        one_step(e, noise, torch.tensor([1.0, 0.0], dtype=F64), path, None) for e in (mixture.estimate(path), reflowed)
    ]
    true = build("sampler", "heun")(mixture.estimate(path), noise, times, path, None)
    off = [(e - true).abs().mean() for e in ends]
    assert off[1] < 1e-3 and off[0] > 0.3, "one step is enough afterwards"


def test_guidance_and_a_path_of_its_own():
    asked = []
    teacher = Teacher()
    teacher.estimator = lambda cond, guidance=None: asked.append(guidance) or Teacher().estimator(cond)
    o = built(OBJECTIVES["reflow"], {"guidance": {"name": "cfg", "scale": 3.0}}, teacher)
    seen_by(o, torch.zeros(2, D, 1, 1, 1), rows(2))
    assert asked[0].scale == 3.0
    with pytest.raises(ValueError, match="sampled along the path of this objective"):
        built(OBJECTIVES["reflow"], {"sampler": {"name": "euler", "path": "vp"}})
