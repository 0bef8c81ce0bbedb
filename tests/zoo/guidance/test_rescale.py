"""Guidance at the spread of the conditional belief."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo.guidance
import zoo.objectives  # noqa: F401
from tests.zoo.guidance.conftest import close, same
from vidiff.diffusion.guidance import Branch, Given
from vidiff.registry import PATHS, PREDICTIONS, build
from vidiff.types import Cond

DATA = Path(__file__).parents[2] / "parity" / "data" / "losses"
T = torch.tensor([0.7, 0.3], dtype=torch.float64)


def node(**settings):
    return {"name": "rescale", "guidance": {"name": "cfg", "scale": 7.5}, **settings}


@pytest.mark.parametrize("space", ["eps", "v", "x0"])
def test_diffusers(space):
    """rescale_noise_cfg of the network's output, whatever it is a prediction of."""
    tensors, path, prediction = load_file(DATA / "cfg_rescale_a.safetensors"), PATHS["cosine"].build(), space
    outputs, prediction = {k: tensors[f"in.{k}"] for k in ("cond", "uncond")}, PREDICTIONS[space].build()
    x, t = torch.randn(outputs["cond"].shape), torch.tensor([0.4, 0.6])
    given = Given(Branch(Cond()), Branch(Cond()), path)

    def evaluate(x, t, branches):
        return [prediction.solve(path, x, outputs["cond" if b is given.cond else "uncond"], t) for b in branches]

    guided = build("guidance", node(amount=0.7, space=space))(evaluate, given)(x, t)
    assert torch.allclose(prediction.ask(path, guided, t), tensors["out.rescaled"], atol=2e-5)


def test_amount_one_has_the_spread_of_the_condition(scene):
    guided = scene.run(build("guidance", node(amount=1.0)), T)
    assert len(scene.asked) == 1 and len(scene.asked[0]) == 2
    v = PREDICTIONS["v"].build()
    cond, cfg = scene.belief(scene.given.cond, T), scene.run(build("guidance", node(amount=0.0)), T)
    spreads = [v.ask(scene.path, e, T).flatten(1).std(1) for e in (guided, cond, cfg)]
    assert torch.allclose(spreads[0], spreads[1]) and (spreads[2] > 2 * spreads[1]).all()


def test_amount_zero_is_the_inner_guidance_in_bits(scene):
    assert same(scene.run(build("guidance", node(amount=0.0)), T), scene.run(build("guidance", node()["guidance"]), T))


def test_around_no_guidance_it_changes_nothing_in_bits(scene):
    for inner in ("none", {"name": "cfg", "scale": 1.0}):
        found = scene.run(build("guidance", {"name": "rescale", "guidance": inner}), T)
        assert same(found, scene.belief(scene.given.cond, T)) and len(scene.asked.pop()) == 1


def test_the_space_counts_and_not_the_prediction(scene):
    """Spaces differ; on (alpha, sigma) = (1, 1) by hand: v = noise - x0 has another spread than noise."""
    one, other = (scene.run(build("guidance", node(space=space)), T) for space in ("v", "x0"))
    assert not close(one, other, 1e-3)


def test_a_space_that_tells_nothing_at_the_start_is_refused():
    class Model:
        objective = build("objective", "rectified_flow")

    with pytest.raises(ValueError, match=r"space of eps .* t = 1 .* Use space: v"):
        build("guidance", node(space="eps")).check(Model)
    build("guidance", node(space="v")).check(Model)
