"""What the presets stand for, and that every part is a setting."""

import pytest
import torch

import zoo.objectives  # noqa: F401
from tests.teacher import built
from vidiff.registry import OBJECTIVES


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("rectified_flow", ("Linear", "Velocity", "Uniform", "Uniform", "Gaussian")),
        ("v_prediction", ("Cosine", "V", "Uniform", "Uniform", "Gaussian")),
        ("epsilon", ("Ddpm", "Eps", "Uniform", "Uniform", "Gaussian")),
        ("edm", ("Ve", "Edm", "Edm", "LognormalSigma", "Gaussian")),
        ("x0_prediction", ("Ddpm", "X0", "Uniform", "Uniform", "Gaussian")),
        ("score_matching", ("Vp", "Score", "Snr", "Uniform", "Gaussian")),
        ("l1", ("DdpmCosine", "Eps", "Uniform", "Uniform", "Gaussian")),
    ],
)
def test_presets(name, parts):
    o = OBJECTIVES[name].build()
    built = (o.path, o.prediction, o.weighting, o.times, o.noise)
    assert tuple(type(p).__name__ for p in built) == parts and o.outputs == 1
    assert o.interval == ((1e-5, 1.0) if name == "score_matching" else (0.0, 1.0))


def test_every_part_is_a_setting_by_name_or_with_settings_of_its_own():
    o = OBJECTIVES["rectified_flow"].build(
        {
            "path": {"name": "vp", "beta_max": 7.0},
            "prediction": "x0",
            "weighting": {"name": "min_snr", "gamma": 3.0},
            "times": {"name": "stratified", "times": {"name": "shifted", "factor": 2.0}},
            "noise": {"name": "offset", "strength": 0.3},
            "interval": [0.01, 0.9],
        }
    )
    assert (o.path.beta_max, o.weighting.gamma, o.times.times.factor, o.noise.strength) == (7.0, 3.0, 2.0, 0.3)
    assert type(o.prediction).__name__ == "X0" and o.interval == (0.01, 0.9)
    assert set(OBJECTIVES["edm"].settings) == {"path", "prediction", "weighting", "times", "noise", "interval"}


def test_a_preset_can_be_built_where_a_plan_is_made():
    for component in OBJECTIVES:
        with torch.device("meta"):
            planned = built(component)
        assert planned.path.sigma(torch.tensor(0.5)).device.type == "cpu"
    with (
        torch.device("meta"),
        pytest.raises(ValueError, match="eps prediction on the cosine path is impossible at t = 1"),
    ):
        OBJECTIVES["v_prediction"].build({"prediction": "eps"})
