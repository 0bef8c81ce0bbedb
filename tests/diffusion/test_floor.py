"""The least loss, against closed forms and against what perfect networks lose."""

import pytest
import torch

import zoo  # noqa: F401
from tests.oracle import Mixture, gaussian, three
from vidiff.diffusion.floor import floor
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Grid

GRID = Grid(3, 1, 1, 1)
VARIANCES = [0.3, 0.05, 1.7]
PLAIN = ["rectified_flow", "v_prediction", "epsilon", "edm", "x0_prediction", "score_matching", "diffusion_forcing"]


@pytest.mark.parametrize("name", PLAIN)
def test_of_one_gaussian_it_is_the_closed_form_whatever_is_drawn(name):
    o = OBJECTIVES[name].build()
    l = torch.tensor(VARIANCES, dtype=torch.float64)  # noqa: E741
    for logsnr in (3.0, 0.0, -2.5):
        t = o.path.time(torch.tensor(logsnr, dtype=torch.float64))
        alpha, sigma = o.path.alpha(t), o.path.sigma(t)
        mmse = (l * sigma**2 / (alpha**2 * l + sigma**2)).mean()
        mse = (o.prediction.determinant(o.path, t) / sigma) ** 2 * mmse
        found = floor(o, gaussian([0.4, 0.0, -1.0], VARIANCES), GRID, logsnr, num=7)
        assert torch.allclose(found.x0, mmse, rtol=1e-9) and torch.allclose(found.mse, mse, rtol=1e-9)
        assert torch.allclose(found.loss, o.weighting(o.path, o.prediction, t) * mse, rtol=1e-9)
        assert found.loss_error < 1e-9


@pytest.mark.parametrize("name", PLAIN)
def test_a_perfect_network_loses_it_over_all_of_training(name):
    o, law, num = OBJECTIVES[name].build(), three(3), 4000
    found = floor(o, law, GRID, num=num)
    random = Random(5, "train", rows=range(num))
    x0 = law.sample(num, 9).reshape(num, *GRID)
    losses = o.loss(law.net(o.prediction, o.path), x0, Cond(), random)
    error = 4 * (found.loss_error**2 + (losses["loss"] * 0.05) ** 2) ** 0.5
    assert abs(losses["loss"] - found.loss) < error and found.loss_error < 0.1 * found.loss


def test_who_knows_the_class_can_lose_less():
    plain = three(3)
    law = Mixture(plain.weights, plain.means, plain.covariances, torch.arange(3))
    o = OBJECTIVES["rectified_flow"].build()
    without, half, all_ = (floor(o, law, GRID, 0.0, told, num=3000) for told in (0.0, 0.5, 1.0))
    assert all_.loss < half.loss < without.loss
    t = torch.tensor(0.5, dtype=torch.float64)
    exact = sum(  # a Gaussian each
        w * (e * t**2 / ((1 - t) ** 2 * e + t**2)).mean() for w, e in zip(plain.weights, plain.eigenvalues, strict=True)
    )
    assert abs(all_.x0 - exact) < 0.02 * exact


@pytest.mark.parametrize(("name", "reason"), [
    ("iddpm", "not a weighted square alone"), ("l1", "not a weighted square alone"), ("consistency", "not a weighted")
])  # fmt: skip
def test_what_has_no_such_form_is_refused(name, reason):
    with pytest.raises(ValueError, match=reason):
        floor(OBJECTIVES[name].build(), three(3), GRID)
    with pytest.raises(ValueError, match=r"objective\.noise=gaussian"):
        floor(OBJECTIVES["epsilon"].build({"noise": "offset"}), three(3), GRID)
