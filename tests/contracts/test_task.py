"""What every registered task promises beside vidiff.checks.task: its number of frames, and any guidance."""

import pytest

import zoo  # noqa: F401
from vidiff.building import build_task
from vidiff.checks.task import model
from vidiff.engine.data import collate
from vidiff.random import Random
from vidiff.registry import GUIDANCE, TASKS, build


@pytest.fixture
def made():
    """A plan, and its model with weights that answer something: those that the checks have."""
    return model()


@pytest.fixture(params=TASKS.names())
def task(request, made):
    component, (planned, diffuser) = TASKS[request.param], made
    config = load_with(planned, {"name": request.param, **component.tiny})
    made_task = build_task(config, diffuser, planned.shape)
    made_task.check(planned.sampler, diffuser.objective, diffuser.reads)
    return made_task


def load_with(planned, node):
    config = planned.config
    return type(config)(**{**vars(config), "components": {**config.components, "task": node}})


def draw(made, task, rows, guidance="none", notes=None):
    planned, diffuser = made
    items = [{k: v for k, v in planned.dataset[i].items() if k in ("video", "label")} for i in rows]
    return diffuser.sample(
        planned.grid, planned.sampler, build("guidance", guidance), Random(0, "sample", rows=rows), collate(items),
        task=task, notes=notes,
    )  # fmt: skip


def test_draws_finite_videos_of_the_size_it_says(made, task):
    notes = {}
    out = draw(made, task, [3, 1], notes=notes)
    frames = 14 if type(task).__name__ == "Rollout" else 8
    assert out.shape == (2, 1, frames, 8, 12) and out.isfinite().all() and out.std() > 0
    assert all(isinstance(v, (list, float, int)) for v in notes.values())


def test_the_tokenizer_sees_unknown_pixels_blank(made, task, monkeypatch):
    """One that looks beyond a latent frame would otherwise tell what is to be drawn."""
    if task.pixels is None:
        pytest.skip("it takes no given videos")
    seen, encode = [], made[1].encode
    monkeypatch.setattr(made[1], "encode", lambda video: seen.append(video) or encode(video), raising=False)
    draw(made, task, [2, 5])
    assert len(seen) == 1 and (seen[0][:, :, ~task.pixels] == 0).all() and (seen[0] != 0).any()


@pytest.mark.parametrize("guidance", [g.name for g in GUIDANCE if not any("load" in w for w in g.wiring)])
def test_every_guidance_goes_with_it(made, task, guidance):
    node = {"name": guidance, **GUIDANCE[guidance].tiny}
    if guidance == "per_condition":
        pytest.skip("it needs several conditions")
    build("guidance", node).check(made[1])
    out = draw(made, task, [0, 2], node)
    assert out.isfinite().all()
