"""What a sample costs and depends on, through `Diffuser.sample`, for every registered sampler, guidance and task.

tests/contracts/test_task.py has the tasks; here every sampler runs with every guidance that a model without blocks
can have, and every sampler draws sample i alone, among others and again.
"""

from pathlib import Path

import pytest
import torch

import zoo  # noqa: F401
from vidiff.building import build_diffuser, plan
from vidiff.config import load
from vidiff.engine.sample import draw
from vidiff.random import Random
from vidiff.registry import GUIDANCE, SAMPLERS, build

PROJECT = Path(__file__).resolve().parents[1] / "projects/oracle.yaml"


@pytest.fixture(scope="module")
def made():
    planned = plan(load(PROJECT, ["data.shape=[1,3,2,4]", "tokenizer.size=[3,1,2]"]))
    return planned, build_diffuser(planned.config, planned.dataset).eval()


PLAIN = [g.name for g in GUIDANCE if not g.wiring and g.name not in ("pag", "stg", "per_condition")]
VELOCITY = [s.name for s in SAMPLERS if "velocity" in s.target.asks]


def sampled(made, sampler, rows, guidance="cfg", calls=None):
    planned, diffuser = made
    count = (lambda: calls.append(1)) if calls is not None else (lambda: None)
    node = {"name": guidance, **GUIDANCE[guidance].tiny}
    return diffuser.sample(
        planned.grid, sampler, build("guidance", node), Random(3, "sample", rows=rows),
        {"label": torch.tensor([r % 3 for r in rows])}, count,
    )  # fmt: skip


@pytest.mark.parametrize("name", VELOCITY)
def test_evaluations_are_as_promised_with_every_guidance(made, name):
    """One call of the network holds all branches; cfg_zero asks nothing while the velocity is zero."""
    for steps in (1, 4):
        sampler = SAMPLERS[name].build({**SAMPLERS[name].tiny, "steps": steps})
        for guidance in PLAIN:
            calls = []
            out = sampled(made, sampler, [0, 5], guidance, calls)
            assert out.isfinite().all()
            if sampler.evaluations is None:
                continue
            spared = guidance == "cfg_zero"
            assert len(calls) == sampler.evaluations or (spared and len(calls) < sampler.evaluations), guidance


@pytest.mark.parametrize("name", VELOCITY)
def test_a_sample_is_the_same_alone_among_others_and_again(made, name):
    sampler = SAMPLERS[name].build(SAMPLERS[name].tiny)
    many = sampled(made, sampler, range(5))
    assert torch.equal(sampled(made, sampler, range(5)), many), "the same seed, the same bits"
    fewer = sampled(made, sampler, range(2))
    near = 1e-4 * many.abs().max()
    assert (fewer - many[:2]).abs().max() < near, "the first two of five"
    for i in (1, 4):
        assert (sampled(made, sampler, [i])[0] - many[i]).abs().max() < near
    assert (many[0] - many[3]).abs().max() > 0.1, "samples of one class differ"


def test_videos_do_not_depend_on_how_many_are_drawn_at_once(made):
    planned, diffuser = made
    conditions = [{"label": r % 3} for r in range(6)]
    videos = [
        draw(
            diffuser, planned.grid, planned.sampler, planned.guidance, seed=0, rows=range(num),
            conditions=conditions[:num], batch_size=size,
        ).video
        for num, size in ((6, 6), (6, 4), (3, 1))
    ]  # fmt: skip
    assert (videos[0].int() - videos[1].int()).abs().max() <= 1 and (
        videos[0][:3].int() - videos[2].int()
    ).abs().max() <= 1


@pytest.mark.parametrize("sampler", ["euler", "ancestral", "dpmpp_2m_sde", "euler_maruyama"])
def test_samples_begin_with_and_are_stirred_by_noise_of_the_prior_that_was_trained_on(made, sampler, monkeypatch):
    """A prior that is one number for every channel of a clip: all that was drawn is constant over its elements."""
    _, diffuser = made
    monkeypatch.setattr(diffuser.objective, "noise", build("noise", {"name": "offset", "strength": 1e6}))
    seen = []
    law = type(diffuser.backbone).forward

    def watched(network, x, time, cond):
        seen.append(x)
        return torch.zeros_like(law(network, x, time, cond))

    monkeypatch.setattr(type(diffuser.backbone), "forward", watched)
    sampled(made, build("sampler", {"name": sampler, "steps": 3}), range(3), "none")
    assert len(seen) == 3
    for x in seen:
        apart = x.flatten(2).std(2)
        assert x.flatten(2).shape[2] > 1 and apart.max() < 1e-4 < x.flatten(1).std(1).min()
