"""The choice of the posterior's variance, and learned variances on their way from the network to the sampler."""

import pytest
import torch
from torch import nn

import zoo.guidance
import zoo.objectives
import zoo.samplers  # noqa: F401
from tests.oracle import three
from vidiff.diffuser import Diffuser
from vidiff.random import Random
from vidiff.registry import build
from vidiff.types import Cond

F64 = torch.float64
TIMES = torch.tensor([0.8, 0.35], dtype=F64)


def test_small_is_ancestral():
    path, mixture = build("path", "ddpm"), three(3)
    x, exact = mixture.sample(5, 1), mixture.estimate(build("path", "ddpm"))
    small = build("sampler", "ddpm")(exact, x, TIMES, path, Random(3, rows=range(5)))
    assert torch.allclose(small, build("sampler", "ancestral")(exact, x, TIMES, path, Random(3, rows=range(5))))


def test_learned_lies_between_and_is_refused_where_nothing_was_learned():
    path, mixture = build("path", "ddpm"), three(3)
    x, exact = mixture.sample(5, 1), mixture.estimate(path)

    def draw(variance, estimate=exact):
        return build("sampler", {"name": "ddpm", "variance": variance})(
            estimate, x, TIMES, path, Random(3, rows=range(5))
        )

    for share, same in ((0.0, "small"), (1.0, "large")):
        learned = draw("learned", lambda x, t, share=share: exact(x, t).spread(torch.full_like(x, share)))
        assert torch.allclose(learned, draw(same), rtol=1e-10)
    assert (draw("small") - draw("large")).abs().max() > 1e-3
    with pytest.raises(ValueError, match="objective iddpm"):
        draw("learned")


class Answers(nn.Module):
    """Noise and variances: those of the rows with a condition are its value."""

    def forward(self, x, label, cond):
        return torch.cat([0.1 * x, cond.vector[:, :1, None, None, None].expand_as(x)], 1)


@pytest.mark.parametrize("guidance", ["none", {"name": "cfg", "scale": 3.0}])
def test_guidance_keeps_the_variances_of_the_condition(guidance):
    objective = build("objective", "iddpm")
    diffuser = Diffuser(nn.Identity(), nn.Linear(1, 1), Answers(), objective)
    cond, uncond = Cond(vector=torch.full((2, 1), 0.5)), Cond(vector=torch.full((2, 1), -0.7))
    estimate = diffuser.guided(build("guidance", guidance), cond, uncond)
    share = estimate(torch.randn(2, 3, 4, 5, 6), torch.full((2,), 0.5, dtype=F64)).share
    assert share.shape == (2, 3, 4, 5, 6) and torch.allclose(share, torch.full_like(share, 0.75))
