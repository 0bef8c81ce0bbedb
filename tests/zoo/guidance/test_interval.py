"""Guidance in a window of noise levels."""

import pytest
import torch

from tests.zoo.guidance.conftest import close, same
from vidiff.registry import PATHS, build

T = torch.tensor([0.5, 0.5], dtype=torch.float64)  # sigma / alpha = 1 on the linear path


@pytest.mark.parametrize(
    ("window", "inside"), [((0.5, 2.0), True), ((1.0, 2.0), False), ((0.5, 1.0), True), ((1.5, None), False)]
)
def test_the_lower_end_is_open_the_upper_end_closed(scene, window, inside):
    low, high = window
    found = scene.run(build("guidance", {"name": "interval", "sigma_min": low, "sigma_max": high}), T)
    assert len(scene.asked) == 1 and len(scene.asked[0]) == (2 if inside else 1)
    assert same(found, scene.run(build("guidance", "cfg" if inside else "none"), T))


def test_an_empty_window_is_no_guidance_in_bits(scene):
    found = scene.run(build("guidance", {"name": "interval", "sigma_min": 1.0, "sigma_max": 1.0}), T)
    assert same(found, scene.belief(scene.given.cond, T)) and scene.asked == [[scene.given.cond]]


def test_all_of_the_way_is_cfg_in_bits_even_where_alpha_is_zero(scene):
    everywhere = build("guidance", {"name": "interval", "sigma_min": 0.0, "sigma_max": None})
    t = torch.tensor([1.0, 0.01], dtype=torch.float64)
    assert same(scene.run(everywhere, t), scene.run(build("guidance", "cfg"), t))


def test_frames_are_guided_each_by_its_own_level(scene):
    t = torch.tensor([[0.1, 0.5, 0.6, 0.95], [0.5, 0.2, 0.3, 0.4]], dtype=torch.float64)
    found = scene.run(build("guidance", {"name": "interval", "sigma_min": 0.6, "sigma_max": 3.0}), t)
    assert len(scene.asked) == 1
    cfg, none = (scene.run(build("guidance", g), t) for g in ("cfg", "none"))
    inside = (t / (1 - t) > 0.6) & (t / (1 - t) <= 3.0)
    assert inside.any() and not inside.all()
    mask = inside[:, None, :, None, None]
    assert same(found, [torch.where(mask, a, b) for a, b in zip(cfg, none, strict=True)])


def test_the_window_is_the_same_on_every_path(exact):
    """At equal noise levels paths differ by a factor of x only, so the guided x0 is the same."""
    guidance, answers = build("guidance", {"name": "interval", "sigma_min": 0.5, "sigma_max": 2.0}), []
    for name in ("linear", "cosine", "ve"):
        path = PATHS[name].build()
        evaluate, given = exact(path)
        t = path.time(-2 * torch.tensor([0.4, 0.6, 1.9, 2.2], dtype=torch.float64).log())
        x = path.alpha(t)[:, None] * torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
        answers.append(guidance(evaluate, given)(x, t).x0)
    assert torch.allclose(answers[0], answers[1], atol=1e-9) and torch.allclose(answers[0], answers[2], atol=1e-9)


def test_it_goes_around_any_guidance(scene):
    nodes = [{"name": "rescale", "guidance": {"name": "apg", "scale": 3.0}}, {"name": "pag", "guidance": "cfg"}]
    for node in nodes:
        around = {"name": "interval", "guidance": node, "sigma_min": 0.5, "sigma_max": 2.0}
        assert close(scene.run(build("guidance", around), T), scene.run(build("guidance", node), T))
