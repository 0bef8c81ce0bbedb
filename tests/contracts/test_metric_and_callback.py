"""The checks of metrics and callbacks: sound ones keep them, and a planted bug is caught by the named one."""

import json
from typing import ClassVar

import numpy as np
import pytest
import torch

import zoo  # noqa: F401
from vidiff.checks import CHECKS, judge
from vidiff.commands import check
from vidiff.registry import CALLBACKS, METRICS, Component
from vidiff.types import Count


class PixelError:
    """Mean squared error of pairs and the distance of mean colours."""

    protocol: ClassVar = {"range": "[0, 255]", "pairs": True}

    def __init__(self):
        self.square, self.elements, self.colours = 0.0, 0, [0.0, 0.0]

    def update(self, real, fake):
        self.square += (real.double() - fake.double()).square().sum().item()
        self.elements += real.numel()
        self.colours = [c + v.double().sum().item() for c, v in zip(self.colours, (real, fake), strict=True)]

    def compute(self):
        if not self.elements:
            raise ValueError("no video was shown.")
        return {"mse": self.square / self.elements, "colour": abs(self.colours[0] - self.colours[1]) / self.elements}


class Tensors(PixelError):
    def compute(self):
        return {k: torch.tensor(v) for k, v in super().compute().items()}


class Endless(PixelError):
    def compute(self):
        return {**super().compute(), "psnr": float("inf")}


class Secretive(PixelError):
    protocol: ClassVar = {}


class WithANetwork(PixelError):
    protocol: ClassVar = {"network": torch.nn.Identity()}


class AveragesAverages(PixelError):
    def update(self, real, fake):
        self.square += (real.double() - fake.double()).square().mean().item()
        self.elements += 1


class FirstOnly(PixelError):
    def update(self, real, fake):
        super().update(real[:1] if not self.elements else real[:0], fake[:1] if not self.elements else fake[:0])


class Blind(PixelError):
    def update(self, real, fake):
        super().update(real, real)


class Shared(PixelError):
    kept: ClassVar = [0.0]

    def update(self, real, fake):
        super().update(real, fake)
        self.kept[0] += self.square

    def compute(self):
        return {**super().compute(), "kept": self.kept[0]}


class Empties(PixelError):
    def compute(self):
        return {**super().compute(), "mse": self.square / self.elements, "spent": self.spend()}

    def spend(self):
        self.elements += 1
        return 0.0


class Normalises(PixelError):
    def update(self, real, fake):
        super().update(real, fake)
        fake //= 2


class Throws(PixelError):
    def update(self, real, fake):
        keep = torch.rand(len(real)) < 2
        super().update(real[keep], fake[keep])


class FromNothing(PixelError):
    def compute(self):
        return {"mse": self.square / max(1, self.elements)}


METRIC_BUGS = [
    (Tensors, "gives_numbers_with_names", "call .item()"),
    (Endless, "gives_numbers_with_names", "psnr: not finite"),
    (Secretive, "says_its_protocol", "protocol is {}"),
    (WithANetwork, "says_its_protocol", "JSON cannot hold it"),
    (AveragesAverages, "batches_do_not_matter", "never average averages"),
    (FirstOnly, "order_does_not_matter", "another order"),
    (Blind, "sees_what_is_drawn", "measures nothing"),
    (Shared, "two_keep_apart", "kept"),
    (Empties, "two_keep_apart", "asked twice"),
    (Normalises, "leaves_its_inputs_alone", "were changed"),
    (Throws, "leaves_its_inputs_alone", "torch's global generator"),
    (FromNothing, "nothing_is_no_number", "nothing was measured"),
]


class WeightNorm:
    """Records the norm of all weights, and a video's mean."""

    def __init__(self, every: Count = 100, num: Count = 3):
        self.every, self.num = every, num

    def __call__(self, trainer):
        norms = torch.stack([p.detach().norm() for p in trainer.diffuser.parameters()])
        mean = trainer.draw(self.num).video.float().mean()
        trainer.record({"my/norm": float(norms.norm()), "my/mean": float(mean)})
        (trainer.run.path / "norm.json").write_text("{}")


class Seldom(WeightNorm):
    def __init__(self, every: Count = 100):
        super().__init__(2 * every)


class Trains(WeightNorm):
    def __call__(self, trainer):
        super().__call__(trainer)
        with torch.no_grad():
            next(trainer.diffuser.parameters()).mul_(0.99)


class LeavesEval(WeightNorm):
    def __call__(self, trainer):
        super().__call__(trainer)
        trainer.model("raw").eval()


class Backward(WeightNorm):
    def __call__(self, trainer):
        super().__call__(trainer)
        sum(p.square().sum() for p in trainer.diffuser.parameters()).backward()


class Freezes(WeightNorm):
    def __call__(self, trainer):
        trainer.model("ema").requires_grad_(False)
        super().__call__(trainer)


class RecordsTensors(WeightNorm):
    def __call__(self, trainer):
        trainer.record({"my/norm": next(trainer.diffuser.parameters()).detach().norm()})


class RecordsNaN(WeightNorm):
    def __call__(self, trainer):
        trainer.record({"my/norm": float("nan")})


class SpacedName(WeightNorm):
    def __call__(self, trainer):
        trainer.record({"my norm": 1.0})


class Remembers(WeightNorm):
    calls = 0

    def __call__(self, trainer):
        self.calls += 1
        trainer.record({"my/calls": float(self.calls)})


class Dice(WeightNorm):
    def __call__(self, trainer):
        trainer.record({"my/dice": float(np.random.rand() > 2)})


class Astray(WeightNorm):
    def __call__(self, trainer):
        with open("norm.json", "w") as file:
            json.dump({}, file)


class GoesOn(WeightNorm):
    def __call__(self, trainer):
        try:
            super().__call__(trainer)
        except RuntimeError:
            trainer.record({"my/norm": 0.0})


class RecordsFirst(WeightNorm):
    def __call__(self, trainer):
        trainer.record({"my/begun": 1.0})
        super().__call__(trainer)


CALLBACK_BUGS = [
    (Seldom, "says_when", "14 where 7 was set"),
    (Trains, "leaves_training_alone", "the raw weights are others"),
    (LeavesEval, "leaves_training_alone", "the raw weights are left in another mode"),
    (Backward, "leaves_training_alone", "have gradients"),
    (Freezes, "leaves_training_alone", "requires_grad of the averaged weights"),
    (RecordsTensors, "records_numbers", "use float()"),
    (RecordsNaN, "records_numbers", "my/norm"),
    (SpacedName, "records_numbers", "no name"),
    (Remembers, "says_the_same_again", "at a second call"),
    (Dice, "says_the_same_again", "numpy's global generator"),
    (Astray, "writes_into_the_run_folder_only", "norm.json lies in the working folder"),
    (GoesOn, "can_be_interrupted", "do not catch it"),
    (RecordsFirst, "can_be_interrupted", "records my/begun all the same"),
]


def outcomes(kind, target):
    return {f.__name__: judge(f, Component(kind, target.__name__, target, {}, {})) for f in CHECKS[kind]}


@pytest.mark.parametrize(("kind", "target"), [("metric", PixelError), ("callback", WeightNorm)])
def test_a_sound_one_keeps_every_promise(kind, target):
    assert {name: f.words for name, f in outcomes(kind, target).items() if f.outcome != "kept"} == {}


@pytest.mark.parametrize(
    ("kind", "target", "name", "words"),
    [("metric", *bug) for bug in METRIC_BUGS] + [("callback", *bug) for bug in CALLBACK_BUGS],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_a_planted_bug_is_caught_by_the_named_check(kind, target, name, words):
    found = outcomes(kind, target)
    assert found[name].outcome == "broken" and words in found[name].words, found[name]
    assert sum(f.outcome == "broken" for f in found.values()) <= 3, "that bug, and not everything"


def test_every_kind_is_checked_or_says_which_are(tmp_path, capsys):
    assert check.main(["--list"]) == 0
    listed = capsys.readouterr().out
    for kind, functions in CHECKS.items():
        assert f"\n{kind}\n" in f"\n{listed}" and all(f"  {f.__name__}: " in listed for f in functions)
    for words in (["optimizer:adamw"], ["schedule:cosine"], ["--list", "optimizer"], []):
        assert check.main(words) == 2
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and (("callback" in err and "metric" in err) or "--list" in err)


def test_a_setting_without_a_default_is_asked_for_before_anything_is_checked(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from vidiff.registry import METRICS\n\n\n"
        "@METRICS.register('my_metric')\n"
        "class MyMetric:\n"
        "    size = 0\n\n"
        "    def __init__(self, size: int):\n"
        "        self.size = size\n"
    )
    try:
        assert check.main([str(file)]) == 2
        assert "my_metric cannot be built: name size in tiny=dict(...)" in capsys.readouterr().err
        assert check.main([str(file), "size=3"]) == 3
        assert "FAIL gives_numbers_with_names" in capsys.readouterr().out
    finally:
        METRICS.remove("my_metric")


def test_a_callback_of_ones_own_from_the_command_line(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "from vidiff.registry import CALLBACKS\n\n\n"
        "@CALLBACKS.register('my_eval', tiny=dict(every=2))\n"
        "class MyEval:\n"
        "    '''Forgets to go back.'''\n\n"
        "    def __init__(self, every: int = 10):\n"
        "        self.every = every\n\n"
        "    def __call__(self, trainer):\n"
        "        trainer.diffuser.eval()\n"
    )
    try:
        assert check.main([str(file)]) == 3
        out, err = capsys.readouterr()
        assert "FAIL leaves_training_alone: " in out and "ok   says_when" in out
        assert "-    records_numbers: it records no numbers" in out and err == "vidiff: stopped: 1 of 4 checks fail.\n"
    finally:
        CALLBACKS.remove("my_eval")
