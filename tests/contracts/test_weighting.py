"""What every registered weighting promises."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.registry import PATHS, PREDICTIONS, WEIGHTINGS

STATED = [w.name for w in WEIGHTINGS if w.target.space != "target"]  # the rest weigh the network's own error
T = torch.tensor([[1e-6, 0.02, 0.3], [0.55, 0.9, 0.999]], dtype=torch.float64)


@pytest.fixture(params=WEIGHTINGS.names())
def weighting(request):
    return WEIGHTINGS[request.param].build(WEIGHTINGS[request.param].tiny)


@pytest.mark.parametrize("path", PATHS.names())
def test_is_finite_and_not_negative_for_every_prediction(weighting, path):
    path = PATHS[path].build()
    for prediction in PREDICTIONS:
        weight = weighting(path, prediction.build(), T)
        assert weight.shape == T.shape and weight.dtype == T.dtype, prediction.name
        assert weight.isfinite().all() and (weight >= 0).all() and weight.max() > 0, prediction.name


def test_computes_where_its_times_are(weighting):
    t = T.to("meta")
    if isinstance(weighting, torch.nn.Module):
        weighting.to("meta")  # one that learns lives where the network does
    assert weighting(PATHS["ddpm"].build(), PREDICTIONS["v"].build(), t).device.type == "meta"


@pytest.mark.parametrize("weighting", STATED, indirect=True)
@pytest.mark.parametrize("path", PATHS.names())
def test_a_weight_with_a_space_gives_the_same_loss_behind_every_prediction(weighting, path):
    """weight |y - y_hat|^2, for one and the same wrong belief about x_t."""
    path, t = PATHS[path].build(), T[:, 1:].flatten()
    g = torch.Generator().manual_seed(5)
    x0, noise, wrong = (torch.randn(len(t), 7, generator=g, dtype=torch.float64) for _ in range(3))
    off = -(path.alpha(t) / path.sigma(t))[:, None] * wrong  # the noise error that goes with an x0 error of `wrong`
    losses = []
    for prediction in (p.build() for p in PREDICTIONS):
        right, belief = (prediction.target(path, a, b, t) for a, b in ((x0, noise), (x0 + wrong, noise + off)))
        losses.append(weighting(path, prediction, t) * ((right - belief) ** 2).mean(1))
    for loss in losses[1:]:
        assert torch.allclose(loss, losses[0], rtol=1e-9 if path.alpha(t).min() > 1e-6 else 1e-6)
