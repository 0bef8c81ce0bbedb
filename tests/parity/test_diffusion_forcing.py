"""Published weights of Diffusion Forcing (data/schedules), noise levels per frame."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo.objectives  # noqa: F401
from vidiff.registry import build

DATA = Path(__file__).parent / "data" / "schedules"


@pytest.mark.parametrize(("prediction", "key"), [("eps", "noise"), ("x0", "x0"), ("v", "v")])
@pytest.mark.parametrize("weighting", [{"name": "fused_snr", "gamma": 5.0, "decay": 0.98}, {"name": "min_snr"}])
def test_fused_and_min_snr(prediction, key, weighting):
    """Entry i of their table, on frames x clips, is our t = (i + 1) / 1000 on clips x frames; their table has 7 digits."""
    tensors = load_file(DATA / "timestep_sampling_and_weights_a.safetensors")
    kind = {"fused_snr": "fused", "min_snr": "minsnr"}[weighting["name"]]
    t = (tensors["df/in.noise_levels"].T.double() + 1) / 1000
    found = build("weighting", weighting)(build("path", "sigmoid"), build("prediction", prediction), t)
    assert torch.allclose(found, tensors[f"df/out.pred_{key}_{kind}"].T, rtol=1e-6, atol=0)
