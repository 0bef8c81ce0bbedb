"""Replacement: a known bias, which going back and forth lessens; boxes; the way of what is known."""

import torch

import zoo  # noqa: F401
from tests.frames import F64
from tests.zoo.tasks.exact import Columns, Many, Z, canvas, errors, moments, sampling, take, truth, watch
from vidiff.diffusion.task import Canvas
from vidiff.registry import build
from vidiff.types import Grid


def test_a_box_is_painted_and_the_rest_is_kept():
    shape = (2, 4, 10, 8)
    place = Canvas(shape, Grid(*shape), build("tokenizer", "pixels"))
    task = build("task", {"name": "replacement", "frames": "none", "box": [0.2, 0.25, 0.4, 0.5]}, canvas=place)
    unknown = torch.zeros(shape[1:], dtype=torch.bool)
    unknown[:, 2:6, 2:6] = True
    assert torch.equal(~task.pixels, unknown) and torch.equal(task.cells, ~unknown.expand(shape))
    both = build("task", {"name": "replacement", "frames": "first", "count": 1, "box": [0, 0, 1, 1]}, canvas=place)
    assert both.pixels[0].all() and not both.pixels[1:].any()


def test_replacement_is_biased_and_resampling_lessens_it():
    """Stated in docs/conventions.md: with one frame of an AR(1) clip known, replacement follows it too little (pytest -s)."""
    z = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0], dtype=F64)
    plain = build("task", {"name": "replacement", "frames": "first", "count": 1}, canvas=canvas(6))
    bias = errors(plain, 128, z)[0]
    assert 0.1 < bias < 1.2
    drawn = {"heun": moments(plain(take(plain, sampling(Columns(1), steps=128), z)))[0][1].item()}
    true_mean, _ = truth(plain.cells[0, :, 0, 0], z)
    pixels, found = 4000, {}
    for resample in (1, 4, 10, 30):
        node = {"name": "replacement", "frames": "first", "count": 1, "resample": resample, "jump": 4}
        task = build("task", node, canvas=canvas(pixels))
        out = task(take(task, sampling(Many(), "ancestral", 64, pixels=pixels), z))
        found[resample] = (out[0, 0, :, 0].mean(1) - true_mean).abs().max().item()
        drawn[f"ancestral, resample {resample}"] = out[0, 0, 1, 0].mean().item()
    print(f"the next frame, {true_mean[1]:.2f} in truth:", {name: round(mean, 2) for name, mean in drawn.items()})
    assert found[1] > 2 * found[10] > 2 * found[30] and found[4] < found[1], found


def test_what_is_known_walks_from_noise_to_itself_along_the_path():
    """x_t = alpha z + sigma noise for a known element at every evaluation, whatever the sampler does to others."""
    seen = []
    for sampler in ("euler", "heun"):
        task = build("task", {"name": "replacement", "frames": "first", "count": 2}, canvas=canvas(3))
        at = take(task, sampling(Many(), sampler, 7, pixels=3), Z)
        watch(at, seen)
        task(at)
        x1, known = seen[0][0], at.known.latent
        for x, t in seen:
            expected = (1 - t[0]) * known + t[0] * x1
            assert torch.allclose(x[:, :, :2], expected[:, :, :2], atol=1e-12)
        seen.clear()
