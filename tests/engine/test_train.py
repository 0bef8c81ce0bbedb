"""The loop's rules: numbers that are not finite, clips that cannot be read, panels that do not move."""

import json

import pytest
import torch
from safetensors.torch import load_file

from vidiff import gate
from vidiff.diffusion.objective import Objective
from vidiff.engine.buckets import Buckets, Passes
from vidiff.engine.data import BadClips, Order, Tolerant
from vidiff.engine.log import read_journal
from vidiff.errors import Stopped
from vidiff.registry import ATTENTION
from vidiff.types import BadSample
from zoo.datasets.moving_digits import MovingDigits
from zoo.datasets.stand_in import StandIn


@pytest.fixture
def poisoned(monkeypatch):
    """poisoned(calls): the loss of these calls is NaN."""

    def poison(*calls):
        original, count = Objective.loss, iter(range(1000))

        def loss(self, *args):
            values = original(self, *args)
            if torch.is_grad_enabled() and next(count) in calls:
                values["loss"] = values["loss"] * float("nan")
            return values

        monkeypatch.setattr(Objective, "loss", loss)

    return poison


def test_nonfinite_stops_with_the_weights_of_the_step_before(start, poisoned, monkeypatch):
    whole = start("checkpoint.every=1", "checkpoint.keep=9", out="whole")
    poisoned(4)
    with pytest.raises(Stopped, match="step 5: loss nan"):
        start("checkpoint.every=100", out="run")
    run = whole.parent / "run"
    assert json.loads((run / "status.json").read_text())["status"] == "stopped"
    for name in ("model", "ema", "optimizer"):
        file = f"checkpoints/step_00000004/{name}.safetensors"
        assert (run / file).read_bytes() == (whole / file).read_bytes()


def test_nonfinite_can_be_skipped_but_not_for_ever(start, poisoned):
    poisoned(2, 3)
    run = start("train.nonfinite=skip", "train.max_nonfinite=2", out="skips")
    weights = load_file(run / "checkpoints/step_00000007/model.safetensors")
    assert all(torch.isfinite(w).all() for w in weights.values())
    assert (run / "log.txt").read_text().count("not finite, skipped") == 2
    poisoned(2, 3, 4)
    with pytest.raises(Stopped):
        start("train.nonfinite=skip", "train.max_nonfinite=2", out="gives_up")


def test_bf16_and_fp32_learn_the_same(start):
    a, b = (
        [
            e["train/loss"]
            for e in read_journal(start(f"train.precision={p}", out=p) / "metrics.jsonl")
            if "train/loss" in e
        ]
        for p in ("fp32", "bf16")
    )
    assert a != b
    assert a == pytest.approx(b, rel=0.02)


def test_clipping_bounds_the_step(start):
    def moved(**kwargs):
        run = start(*[f"{k}={v}" for k, v in kwargs.items()], "train.steps=1", "optimizer.name=sgd", "optimizer.lr=1.0",
                    "schedule.name=constant", "schedule.warmup_steps=0", "ema.decay=0", out=f"c{kwargs['train.clip']}")  # fmt: skip
        initial = start("train.steps=1", "optimizer.lr=1e-12", "schedule.warmup_steps=0", "ema.decay=0", out="initial")
        a, b = (load_file(r / "checkpoints/step_00000001/model.safetensors") for r in (run, initial))
        return sum(((a[k] - b[k]) ** 2).sum() for k in a).sqrt().item()

    # timm's sgd is Nesterov with momentum 0.9: its first step is 1.9 times the gradient
    assert moved(**{"train.clip": 0.01}) == pytest.approx(0.019, rel=1e-3)
    assert moved(**{"train.clip": 0.0}) > 0.05


def test_the_validation_panel_is_the_same_in_every_run(start):
    def panel(*overrides, out):
        run = start("callbacks.validation={every: 7, num: 5, batch_size: 2}", *overrides, out=out)
        return next(e for e in read_journal(run / "metrics.jsonl") if "val/loss" in e)

    one = panel("optimizer.lr=1e-12", out="one")
    other_batches = panel("optimizer.lr=1e-12", "callbacks.validation.batch_size=3", "train.batch_size=3", out="other")
    assert one["val/loss"] == pytest.approx(other_batches["val/loss"], rel=1e-6)
    assert one["val/loss_raw"] == pytest.approx(one["val/loss"], rel=1e-5)
    # zero at initialisation: the loss is that of answering 0, E|noise - x0|^2 at these clips
    assert panel("optimizer.lr=1e-12", "seed=3", out="seed")["val/loss"] == pytest.approx(one["val/loss"], rel=1e-5)


class Broken(MovingDigits):
    """Every fifth clip cannot be read."""

    def __getitem__(self, i):
        if i % 5 == 3:
            raise BadSample(f"clip_{i % len(self)}.mp4", "truncated")
        return super().__getitem__(i)


def test_an_unreadable_clip_is_replaced_by_the_next_and_named():
    data = Broken(size=16, frames=4, digits=1, digit_size=8, length=40, seed=0, split="train")
    item = Tolerant(data)[43]
    assert torch.equal(torch.as_tensor(item["video"]), torch.as_tensor(data[44]["video"]))
    assert item["_bad"] == [("clip_3.mp4", "truncated")]


def test_too_many_bad_clips_stop_the_run():
    bad = BadClips(limit=0.1)
    assert bad.count(50, [("a.mp4", "cut")]) == [("a.mp4", "cut")]
    assert bad.count(50, [("a.mp4", "cut")]) == []
    bad.check(50)
    bad.count(10, [("b.mp4", "empty")] * 12)
    with pytest.raises(Stopped, match=r"14 of 124 clips cannot be read .*max_bad_fraction allows 10%.*b.mp4: empty"):
        bad.check(10)


def test_a_few_bad_clips_among_the_first_are_no_share_yet():
    bad = BadClips(limit=0.05)
    bad.count(4, [("a.mp4", "cut")])
    bad.check(4)
    bad.count(0, [("b.mp4", "cut")])
    with pytest.raises(Stopped):
        bad.check(0)


def test_bad_clips_are_named_in_the_run_folder(start, monkeypatch):
    original = MovingDigits.__getitem__

    def getitem(self, i):
        if i % len(self) == 3:
            raise BadSample("clip_3.mp4", "truncated")
        return original(self, i)

    monkeypatch.setattr(MovingDigits, "__getitem__", getitem)
    run = start("train.max_bad_fraction=0.5", out="run")
    named = [json.loads(line) for line in (run / "bad_clips.jsonl").read_text().splitlines()]
    assert [n["path"] for n in named] == ["clip_3.mp4"]
    assert "skipped an unreadable clip: clip_3.mp4: truncated" in (run / "log.txt").read_text()
    with pytest.raises(Stopped, match="cannot be read"):
        start("train.max_bad_fraction=0.0", out="strict")


def test_every_epoch_meets_every_clip_once_in_a_new_order():
    order = Order(11, seed=4)
    epochs = [[order(e * 11 + k) for k in range(11)] for e in range(3)]
    for e, epoch in enumerate(epochs):
        assert sorted(i - 11 * e for i in epoch) == list(range(11))
    assert [i % 11 for i in epochs[0]] != [i % 11 for i in epochs[1]]
    assert Order(11, seed=4)(25) == order(25)
    assert [Order(11, seed=5)(k) for k in range(11)] != epochs[0]


def test_batches_start_anywhere_and_split_without_changing_the_order():
    buckets, order = Buckets(StandIn(clips=10), [32]), Order(10, seed=0)

    def passes(step, accumulate=1, rows=range(6)):
        return [part.clips for part in Passes(buckets, 0, 6, rows, accumulate)(step)]

    for step in range(5):
        (whole,) = passes(step)
        assert whole == [order(6 * step + row) for row in range(6)]
        assert passes(step, 3) == [whole[:2], whole[2:4], whole[4:]]
        assert passes(step, 1, range(3)) + passes(step, 1, range(3, 6)) == [whole[:3], whole[3:]]


def test_an_attention_that_fails_its_gate_stops_the_run_and_stays_on_record(start, tmp_path, monkeypatch):
    class LosesTheLastKey:
        def __call__(self, q, k, v, mask=None):
            return torch.nn.functional.scaled_dot_product_attention(q, k[:, :, :-1], v[:, :, :-1])

        def refuses(self, device, dtype, head_dim, masked):
            return None

    monkeypatch.setattr(gate, "OUTCOMES", {})
    ATTENTION.register("loses_the_last_key")(LosesTheLastKey)
    try:
        with pytest.raises(Stopped, match=r"^attention=loses_the_last_key on cpu.*Use attention=math\.$"):
            start("attention=loses_the_last_key")
    finally:
        ATTENTION.remove("loses_the_last_key")
    (case,) = json.loads((tmp_path / "run/env.json").read_text())["attention"].items()
    assert case[0].startswith("loses_the_last_key on cpu") and "does not give softmax" in case[1]["refused"]
    assert json.loads((tmp_path / "run/status.json").read_text())["status"] == "stopped"
    assert not list((tmp_path / "run").glob("checkpoints/step_*")), "nothing was learned"
