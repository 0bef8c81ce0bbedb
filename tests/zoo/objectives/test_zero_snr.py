"""Zero terminal SNR: algorithm 1 of its paper, and what may be asked for at the end."""

import math

import pytest
import torch

import zoo.objectives  # noqa: F401
from vidiff.registry import build

TABLE = {"name": "ddpm_scaled_linear", "num_timesteps": 37}


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_first_entry_stays_and_the_last_is_noise(shift):
    old, new = build("path", TABLE), build("path", {"name": "zero_snr", "path": TABLE, "shift": shift})
    ends = torch.tensor([1 / 37, 1.0], dtype=torch.float64)
    assert new.logsnr(ends)[0] == pytest.approx(float(old.logsnr(ends)[0]) - math.log(shift), abs=1e-9)
    assert new.alpha(ends)[1] == 0 and new.sigma(ends)[1] == 1
    assert torch.isfinite(new.alpha_dot(ends)).all() and torch.isfinite(new.sigma_dot(ends)).all()


def test_alpha_is_moved_and_stretched():
    """Algorithm 1 as it stands in the paper, entry by entry."""
    old = build("path", TABLE).alphas_cumprod.sqrt().tolist()
    first, last = old[0], old[-1]
    expected = [(a - last) * first / (first - last) for a in old]
    found = build("path", {"name": "zero_snr", "path": TABLE}).alphas_cumprod.sqrt()
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)


def test_what_is_refused():
    with pytest.raises(ValueError, match="give path one of the ddpm tables"):
        build("path", {"name": "zero_snr", "path": "linear"})
    with pytest.raises(ValueError, match="ends in pure noise already"):
        build("path", {"name": "zero_snr", "path": {"name": "zero_snr", "path": TABLE}})
