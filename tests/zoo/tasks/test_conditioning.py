"""Conditioning: the conditional distribution, to the order of the sampler; every sampler keeps what is known."""

import pytest
import torch

import zoo  # noqa: F401
from tests.zoo.tasks.exact import Many, Z, canvas, errors, sampling, take, truth
from vidiff.registry import SAMPLERS, build

KNOWN = [("first", 2), ("last", 1), ("ends", 1), ("every", 2)]


@pytest.mark.parametrize("path", ["linear", "cosine", "ve"])
@pytest.mark.parametrize(("frames", "count"), KNOWN)
def test_conditioning_reaches_the_conditional_distribution(frames, count, path):
    task = build("task", {"name": "conditioning", "frames": frames, "count": count}, canvas=canvas(6))
    spacing = {"name": "heun", "spacing": "karras"} if path == "ve" else "heun"
    rough, fine = (errors(task, steps, path=path, sampler=spacing) for steps in (64, 128))
    assert max(fine) < 0.01  # on `ve` the start leaves the mean out, which is 1/80 of the noise
    if path == "linear":
        assert fine[0] < 1e-12 and 2 ** (2 - 0.25) < rough[1] / fine[1] < 2 ** (2 + 0.6)


OTHERS = {"consistency", "jump", "clipped"}
"""Samplers for another kind of network, or for data of another range."""


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS.names()) - OTHERS))
@pytest.mark.parametrize("name", ["conditioning", "replacement"])
def test_every_sampler_keeps_what_is_known_and_fills_the_rest(sampler, name):
    """Known frames stay to the bit; with conditioning, 4,000 pixels have the conditional mean and deviation."""
    pixels = 4000
    task = build("task", {"name": name, "frames": "first", "count": 2}, canvas=canvas(pixels))
    at = take(task, sampling(Many(), {"name": sampler}, 64, pixels=pixels), Z)
    out = task(at)
    assert torch.equal(out[:, :, :2], at.known.latent[:, :, :2]) and out.isfinite().all()
    mean, covariance = truth(task.cells[0, :, 0, 0], Z)
    off = (out[0, 0, :, 0].mean(1) - mean).abs().max()
    spread = (out[0, 0, :, 0].std(1) - covariance.diagonal().sqrt()).abs().max()
    assert off < (0.1 if name == "conditioning" else 0.6)
    assert spread < (0.1 if name == "conditioning" else 0.5)
