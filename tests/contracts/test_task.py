"""What every registered task promises, on a tiny model with a real tokenizer."""

import pytest
import torch

import zoo  # noqa: F401
from vidiff.building import build_diffuser, build_task, plan
from vidiff.config import load
from vidiff.engine.data import collate
from vidiff.random import Random
from vidiff.registry import GUIDANCE, TASKS, build

CONFIG = """\
data: {name: stand_in, shape: [1, 8, 8, 12], num_classes: 5, clips: 9}
tokenizer: {name: tubelet, size: [2, 4, 4]}
backbone: {name: dit_joint, dim: 32, depth: 2, num_heads: 2}
conditioner: label
objective: diffusion_forcing
sampler: {name: euler, steps: 4}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A plan, and its model with weights that answer something."""
    file = tmp_path_factory.mktemp("task") / "tiny.yaml"
    file.write_text(CONFIG)
    planned = plan(load(file))
    diffuser = build_diffuser(planned.config, planned.dataset).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in diffuser.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=g))
    return planned, diffuser


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


def test_a_video_does_not_depend_on_its_company_and_comes_again(made, task):
    before = torch.get_rng_state()
    many = draw(made, task, [3, 1, 4])
    assert torch.allclose(draw(made, task, [1])[0], many[1], atol=1e-5)
    assert torch.equal(draw(made, task, [3, 1, 4]), many)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_known_of_a_part_of_a_video_comes_back(made, task):
    if task.pixels is None or task.pixels.all():
        pytest.skip("it takes no part of given videos")
    out, clips = draw(made, task, [2, 5]), torch.stack([made[0].dataset[i]["video"] for i in (2, 5)])
    given = clips.float() / 127.5 - 1
    known = task.pixels.expand(out[:, :, :8].shape)
    assert torch.equal(out[:, :, :8][known], given[known])
    assert (out[:, :, :8][~known] - given[~known]).abs().mean() > 0.05


def test_unknown_pixels_of_given_videos_are_not_looked_at(made, task):
    if task.pixels is None or task.pixels.all():
        pytest.skip("it takes no part of given videos")
    planned, diffuser = made
    video = torch.stack([planned.dataset[i]["video"] for i in (2, 5)])
    other = torch.where(task.pixels, video, 255 - video)
    outs = [
        diffuser.sample(
            planned.grid,
            planned.sampler,
            build("guidance", "none"),
            Random(0, "sample", rows=[2, 5]),
            {"video": clips, "label": torch.tensor([1, 3])},
            task=task,
        )
        for clips in (video, other)
    ]
    assert torch.equal(*outs)


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
    try:
        build("guidance", node).check(made[1])
    except ValueError as error:
        pytest.skip(f"not with this model: {error}")
    out = draw(made, task, [0, 2], node)
    assert out.isfinite().all()


def test_counts_its_evaluations(made, task):
    planned, diffuser = made
    promised = task.evaluations(planned.sampler)
    if promised is None:
        pytest.skip("only the run itself can tell")
    calls = []
    batch = collate([{k: v for k, v in planned.dataset[0].items() if k in ("video", "label")}])
    diffuser.sample(
        planned.grid, planned.sampler, build("guidance", "none"), Random(0, "sample", rows=[0]), batch,
        lambda: calls.append(1), task,
    )  # fmt: skip
    assert len(calls) == promised
