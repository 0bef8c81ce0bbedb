"""Clips of several shapes in one run: passes of one shape, nothing lost in silence, the same bits however interrupted."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import zoo  # noqa: F401
from vidiff.building import build_dataset, build_diffuser, plan, reshaped
from vidiff.config import ConfigError, load
from vidiff.engine.buckets import Buckets, Passes, evenly, sort_clips, table
from vidiff.engine.data import collate
from vidiff.engine.log import read_journal
from vidiff.engine.sample import conditions_of, draw
from vidiff.engine.train import Trainer
from vidiff.errors import Interrupted, Refused
from vidiff.random import Random
from vidiff.types import BadSample
from vidiff.video import write_mp4
from zoo.datasets.stand_in import StandIn

SHAPES = [(1, 4, 16, 16), (1, 2, 8, 24), (1, 8, 12, 8)]
MIXED = ["data.more_shapes=[[2,8,24],[8,12,8]]", "positions=rotary", "backbone.dropout=0.0"]


def mixed(length=11, tokens=(8, 2, 12)):
    """A data set of three shapes and its buckets; a clip of a latent of 8, 2 and 12 tokens."""
    dataset = StandIn(shape=SHAPES[0], more_shapes=[s[1:] for s in SHAPES[1:]], clips=length)
    return dataset, Buckets(dataset, tokens)


# ---- passes ----


@pytest.mark.parametrize("accumulate", [1, 2, 6])
def test_an_epoch_meets_every_clip_once_in_passes_of_one_shape(accumulate):
    dataset, buckets = mixed()
    passes, met = Passes(buckets, 5, 6, range(6), accumulate), []
    for step in range(11):  # six epochs
        parts = passes(step)
        assert sorted(row for part in parts for row in part.rows) == list(range(6))
        for rows, clips in parts:
            assert len({dataset[clip]["video"].shape for clip in clips}) == 1 and len(rows) == len(clips)
        met += [clip for _, clip in sorted((r, c) for part in parts for r, c in zip(*part, strict=True))]
    for epoch in range(6):
        assert sorted(clip % 11 for clip in met[11 * epoch : 11 * (epoch + 1)]) == list(range(11))
    assert met == [passes.order(n) for n in range(66)], "which clips a step takes has nothing to do with shapes"


@pytest.mark.parametrize("accumulate", [1, 2, 3, 12])
def test_a_pass_holds_at_most_the_tokens_of_the_largest_shape_alone(accumulate):
    _, buckets = mixed(60)
    budget = 24 // accumulate * 12
    passes = Passes(buckets, 0, 24, range(24), accumulate)
    for step in range(5):
        found = Counter()
        for rows, clips in passes(step):
            number = buckets.number(clips[0])
            assert len(rows) * buckets.tokens[number] <= budget
            found[number] += 1
        counts = Counter(buckets.number(c) for part in passes(step) for c in part.clips)
        assert all(found[n] == math.ceil(counts[n] * buckets.tokens[n] / budget) for n in counts), "no pass too many"


def test_parts_are_as_equal_as_they_can_be():
    assert evenly([3, 4, 7, 8, 9], 4) == [[3, 4], [7, 8, 9]]
    assert evenly(list(range(6)), 2) == [[0, 1], [2, 3], [4, 5]] and evenly([], 3) == []


def test_one_shape_is_cut_into_equal_passes_and_not_looked_into():
    class OneShape:
        shape, num_classes = (1, 2, 3, 4), 0

        def __len__(self):
            return 10

    buckets = Buckets(OneShape(), [7])
    parts = Passes(buckets, 1, 6, range(6), 3)(2)
    assert [part.rows for part in parts] == [[0, 1], [2, 3], [4, 5]] and buckets.kept is None
    assert table(None, buckets) == []


# ---- training ----


def bits(run, step=7):
    return {f.name: f.read_bytes() for f in sorted((run / f"checkpoints/step_{step:08d}").glob("*.safetensors"))}


def losses(run):
    return [(e["step"], e["train/loss"]) for e in read_journal(run / "metrics.jsonl") if "train/loss" in e]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_interrupted_resumed_and_watched_it_ends_with_the_same_bits(start, monkeypatch):
    watched = ["train.workers=2", "callbacks.validation={every: 2, num: 7, batch_size: 3}", "log.every=1"]
    whole, step = start(*MIXED, out="whole"), Trainer.train_step

    def interrupted_step(self, batches):
        step(self, batches)
        if self.step == 4:
            self.interrupted = "test"

    monkeypatch.setattr(Trainer, "train_step", interrupted_step)
    with pytest.raises(Interrupted):
        start(*MIXED, *watched, out="run")
    monkeypatch.undo()
    assert bits(start(*MIXED, *watched, out="run")) == bits(whole)


def test_accumulation_changes_nothing_but_rounding(start):
    whole = start(*MIXED, out="whole")
    one = load_file(whole / "checkpoints/step_00000007/model.safetensors")
    for parts in (2, 3, 6):
        run = start(*MIXED, f"train.accumulate={parts}", out=f"parts{parts}")
        split = load_file(run / "checkpoints/step_00000007/model.safetensors")
        assert max((one[k] - split[k]).abs().max().item() for k in one) < 5e-6
        assert [s for s, _ in losses(run)] == [s for s, _ in losses(whole)]
        assert np.allclose([x for _, x in losses(run)], [x for _, x in losses(whole)], atol=1e-6)


def test_the_loss_of_a_step_is_the_mean_over_its_clips(start, yaml_file):
    """Each clip on its own, with its own dice, gives the loss that the run logged for its first step."""
    run = start(*MIXED, "log.every=1", out="run")
    made = plan(load(yaml_file, MIXED))
    diffuser, buckets = build_diffuser(made.config, made.dataset), sort_clips(made)
    order = Passes(buckets, 0, 6, range(6), 1).order
    alone = []
    for row in range(6):
        batch = collate([made.dataset[order(row)]])
        alone.append(diffuser(batch, Random(0, "train", rows=[row], total=6))["loss"].item())
    assert len({buckets.number(order(row)) for row in range(6)}) == 3
    assert losses(run)[0][1] == pytest.approx(sum(alone) / 6, abs=1e-6)


def test_the_validation_panel_is_the_mean_over_its_clips_whatever_the_batch(start):
    values = []
    for batch_size in (1, 4):
        callback = f"callbacks.validation={{every: 7, num: 7, batch_size: {batch_size}}}"
        events = read_journal(start(*MIXED, callback, out=f"b{batch_size}") / "metrics.jsonl")
        (event,) = [e for e in events if "val/loss" in e]
        values.append([event["val/loss"], *(event[f"val/loss_{s}"] for s in ("4x16x16", "2x8x24", "8x12x8"))])
        # seven of four clips: item 0 and 3 have the first shape, and so on, each visit anew
        counts = Counter(row % 4 % 3 for row in range(7))
        mean = sum(values[-1][1 + n] * count for n, count in counts.items()) / 7
        assert values[-1][0] == pytest.approx(mean, abs=1e-6)
    assert values[0] and np.allclose(*values, atol=1e-6)


def test_samples_of_every_shape(start):
    run = start(*MIXED, "callbacks.samples={every: 7, num: 3}", out="run")
    names = {f"{stem}_{shape}.gif" for stem in ("step_00000007", "data") for shape in ("4x16x16", "2x8x24", "8x12x8")}
    assert {f.name for f in (run / "samples").glob("*.gif")} == names


def test_the_plan_is_said_and_kept(start):
    run = start(*MIXED, out="run")
    kept = json.loads((run / "buckets.json").read_text())
    assert [s["clips"] for s in kept["shapes"]] == [14, 13, 13] and kept["clips"] == 40 and kept["left_out"] == []
    assert [s["tokens"] for s in kept["shapes"]] == [16, 6, 12] and kept["shapes"][1]["shape"] == [1, 2, 8, 24]
    log = (run / "log.txt").read_text()
    assert "8x12x8 -> latent 64x4x3x1 = 12 tokens: 13 clips (32%), at most 8 a pass" in log
    start(*MIXED, "train.steps=8", out="run", allow_change=True)
    assert "not the same data any more" not in (run / "log.txt").read_text()
    (run / "buckets.json").write_text(json.dumps({**kept, "clips": 41}))
    start(*MIXED, "train.steps=9", out="run", allow_change=True)
    assert "not the same data any more" in (run / "log.txt").read_text()


# ---- what is refused, what is left out ----


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.more_shapes=[[2,8,24],[3,16,16]]"], ["3 frames"]),  # tubelets of two frames
        (["data.more_shapes=[[2,8,20]]"], ["20"]),  # and of eight columns
        (["data.more_shapes=[[2,8]]"], ["data.more_shapes"]),
        (["data.more_shapes=[[8,16,16]]", "conditioner={name: frames, frames: [3]}"], ["clips of 4x16x16", "frames"]),
    ],
)
def test_an_impossible_shape_is_refused_when_the_configuration_is_read(yaml_file, overrides, words):
    with pytest.raises(ConfigError) as refused:
        plan(load(yaml_file, overrides))
    assert all(word in str(refused.value) for word in words), str(refused.value)


def test_a_network_is_built_for_the_longest_of_every_axis_and_each_shape_is_tried(yaml_file, monkeypatch):
    """A U-Net halves its grid twice: the shape of 8x8x24 pixels has two rows of cells, which it cannot halve."""
    made = plan(load(yaml_file, MIXED))
    assert made.diffuser.backbone.grid == (64, 4, 4, 3) and made.grid == (64, 2, 4, 2) and made.shape == SHAPES[0]
    monkeypatch.setattr(
        type(made.diffuser.backbone),
        "check",
        lambda self, grid: (_ for _ in ()).throw(ValueError("no")) if grid.w == 1 else 0,
    )
    with pytest.raises(ConfigError, match="clips of 8x12x8: no"):
        plan(load(yaml_file, MIXED))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve files: long and wide, long and square, short and square, and two that are too short."""
    root = tmp_path_factory.mktemp("videos")
    sizes = [(11, 16, 32)] * 3 + [(9, 24, 24)] * 3 + [(5, 24, 26)] * 4 + [(1, 16, 16)] * 2
    for i, (frames, height, width) in enumerate(sizes):
        clip = np.random.default_rng(i).integers(0, 256, (3, frames, height, width), dtype=np.uint8)
        write_mp4(root / f"{i:02d}.mp4", torch.from_numpy(clip))
    return root


def of_folder(yaml_file, folder, *overrides):
    shapes = "frames: 8, size: [16, 16], more_shapes: [[4, 16, 16], [8, 8, 16], [2, 32, 32]]"
    data = f"{{name: video_folder, root: {folder}, {shapes}, splits: [1.0, 0.0, 0.0]}}"
    return plan(load(yaml_file, [f"data={data}", "conditioner=none", "positions=rotary", *overrides]))


def test_files_are_sorted_by_length_aspect_and_size_and_the_rest_is_named(yaml_file, folder):
    made = of_folder(yaml_file, folder, "train.max_bad_fraction=0.2")
    buckets = sort_clips(made)
    found = {made.dataset.paths[i]: buckets.number(i) for i in range(10)}
    # wide and 11 frames: 8x8x16; square and 9: the square one that is not enlarged, the longer; 5 frames: the shorter
    assert [found[f"{i:02d}.mp4"] for i in range(10)] == [2] * 3 + [0] * 3 + [1] * 4
    assert sorted(path.split("/")[-1] for path, _ in buckets.left_out) == ["10.mp4", "11.mp4"]
    assert all("1 frames; the shortest shape with frame_stride 1 needs 2" in why for _, why in buckets.left_out)
    assert sum(buckets.counts) + len(buckets.left_out) == 12 and buckets.counts == [3, 4, 3, 0]
    for clip in range(10):
        assert made.dataset[clip]["video"].shape == made.dataset.shape_of(clip) == buckets.shapes[buckets.number(clip)]
    said = "\n".join(table(made, buckets))
    assert "10 of 12 clips are used" in said and "left out: 2" in said and "11.mp4: 1 frames" in said
    met = [clip for step in range(5) for part in Passes(buckets, 0, 4, range(4), 1)(step) for clip in part.clips]
    assert sorted(clip % 12 for clip in met[:10]) == list(range(10)), "what is used is met once an epoch"


def test_too_many_without_a_place_are_refused(yaml_file, folder):
    with pytest.raises(
        Refused, match=r"2 of 12 clips have a place in no shape \(17%, train.max_bad_fraction allows 1%"
    ):
        sort_clips(of_folder(yaml_file, folder))
    assert sum(sort_clips(of_folder(yaml_file, folder, "data.short_clip=loop")).counts) == 12


def test_a_run_over_files(start, yaml_file, folder):
    data = f"data={{name: video_folder, root: {folder}, frames: 8, size: [16, 16], more_shapes: [[4, 16, 16], [8, 8, 16]]}}"
    run = start(
        data, "conditioner=none", "positions=rotary", "train.max_bad_fraction=0.3", "data.splits=[1,0,0]", out="r"
    )
    kept = json.loads((run / "buckets.json").read_text())
    assert len(kept["left_out"]) == 2 and "left out: 2" in (run / "log.txt").read_text()


def test_an_unreadable_clip_is_replaced_by_one_of_its_shape():
    dataset, buckets = mixed()
    original = StandIn.__getitem__
    broken = {1, 4, 7}

    class Broken(StandIn):
        def __getitem__(self, i):
            if i % 11 in broken:
                raise BadSample(f"{i}", "truncated")
            return original(self, i)

    dataset = Broken(shape=SHAPES[0], more_shapes=[s[1:] for s in SHAPES[1:]], clips=11)
    item = buckets.tolerant(dataset)[1 + 22]
    assert item["video"].shape == SHAPES[1] and len(item["_bad"]) == 3
    assert torch.equal(item["video"], dataset[10 + 22]["video"])


# ---- drawing ----


def test_another_shape_is_drawn_and_takes_held_out_clips_of_it(yaml_file):
    made = plan(load(yaml_file, [*MIXED, "conditioner={name: frames, frames: [0]}"]))
    other = reshaped(made, SHAPES[1])
    held_out = build_dataset(made.config, "val")
    given = conditions_of(other, range(2))
    assert [torch.equal(g["video"], held_out[i]["video"]) for g, i in zip(given, (1, 1 + len(held_out)))] == [True] * 2
    diffuser = build_diffuser(made.config, made.dataset)
    drawn = draw(diffuser, other.grid, other.sampler, other.guidance, seed=0, rows=range(2), conditions=given)
    assert drawn.video.shape == (2, *SHAPES[1])


def test_a_shape_that_no_clip_has(yaml_file):
    made = plan(load(yaml_file, MIXED))
    assert conditions_of(reshaped(made, (1, 6, 24, 8)), range(2)) == [{"label": 0}, {"label": 1}]
    with pytest.raises(ValueError, match="5 frames"):
        reshaped(made, (1, 5, 24, 8))
    sized = reshaped(plan(load(yaml_file, [*MIXED, "conditioner=size"])), (1, 6, 24, 8))
    assert [c["size"].tolist() for c in conditions_of(sized, range(2))] == [[24, 8]] * 2
    framed = reshaped(plan(load(yaml_file, [*MIXED, "conditioner={name: frames, frames: [0]}"])), (1, 6, 24, 8))
    with pytest.raises(
        Refused, match="no clip of the data is 6x24x8, and latent of one is read. Draw 4x16x16, 2x8x24, 8x12x8"
    ):
        conditions_of(framed, range(2))
