"""One error for every objective: the same belief has the same error behind every path and prediction."""

import pytest
import torch

import zoo  # noqa: F401
from tests.oracle import three
from vidiff.diffusion.levels import time_at, x0_error
from vidiff.registry import build
from vidiff.types import Cond

LEVELS = (-4.0, -1.0, 2.0)
OBJECTIVES = [
    {"name": "rectified_flow"},
    {"name": "rectified_flow", "prediction": "x0"},
    {"name": "v_prediction"},
    {"name": "epsilon"},
    {"name": "edm"},
]


def clips(oracle, num=7):
    """Data of the mixture and noise, shaped like latents, in float64."""
    x0 = oracle.sample(num, seed=3)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return x0.reshape(num, 1, 1, 1, -1), noise.reshape(num, 1, 1, 1, -1)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("node", OBJECTIVES, ids=lambda n: "-".join(n.values()))
def test_a_perfect_network_has_the_same_error_behind_every_objective(node, level):
    """The reference knows neither path nor prediction: sigma/alpha = e^(-level/2) on the variance-exploding scale."""
    oracle, objective = three(), build("objective", node)
    x0, noise = clips(oracle)
    ratio = torch.full((len(x0),), -level / 2, dtype=torch.float64).exp()
    believed, _, _ = oracle.believe((x0 + ratio[:, None, None, None, None] * noise).flatten(1), ratio**0, ratio)
    expected = (believed - x0.flatten(1)).square().mean(1)
    net = oracle.net(objective.prediction, objective.path)
    found = x0_error(objective, net, x0, noise, Cond(), level)
    assert expected.min() > 0
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-12)


def test_a_level_out_of_reach_is_refused_and_never_clamped():
    objective = build("objective", {"name": "rectified_flow", "interval": [0.0, 0.5]})
    assert objective.path.logsnr(time_at(objective, 1.0)).item() == pytest.approx(1.0, abs=1e-9)
    with pytest.raises(ValueError, match=r"log-SNR -2 is not reached .* \[0, 0.5\]: the nearest is 0.00"):
        time_at(objective, -2.0)
