"""A weighting with parameters of its own: trained, averaged, saved, resumed; not asked while sampling."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.test_resume import bits
from vidiff.building import build_diffuser, build_sampling, plan
from vidiff.config import load
from vidiff.engine.sample import draw
from vidiff.errors import Interrupted

LEARNED = "objective.weighting={name: uncertainty, weighting: snr, channels: 6}"
KEYS = {"objective.weighting.slope", "objective.weighting.level"}


def tensors(run, part, step=7):
    return load_file(run / f"checkpoints/step_{step:08d}/{part}.safetensors")


def test_parameters_are_trained_averaged_and_saved(start):
    run = start(LEARNED)
    model, average = tensors(run, "model"), tensors(run, "ema")
    for key in KEYS:
        assert model[key].abs().sum() > 0 and not torch.equal(model[key], average[key])
    assert not [key for key in tensors(start(out="plain"), "model") if key.startswith("objective")]


def test_a_resumed_run_ends_with_the_same_bits(start, monkeypatch):
    from vidiff.engine.train import Trainer

    step = Trainer.train_step

    def interrupted(self, batches):
        step(self, batches)
        if self.step == 4:
            self.interrupted = "test"

    whole = start(LEARNED, out="whole")
    monkeypatch.setattr(Trainer, "train_step", interrupted)
    with pytest.raises(Interrupted):
        start(LEARNED, out="run")
    monkeypatch.undo()
    assert bits(start(LEARNED, out="run")) == bits(whole)
    assert json.loads((whole / "status.json").read_text())["status"] == "finished"


def test_sampling_does_not_depend_on_it(yaml_file):
    videos = []
    for level in (0.0, 3.0):
        made = plan(load(yaml_file, [LEARNED]))
        diffuser = build_diffuser(made.config, made.dataset)
        with torch.no_grad():
            diffuser.objective.weighting.level.fill_(level)
        sampling, conditions = build_sampling(made.config), [{"label": 0}, {"label": 1}]
        drawing = draw(diffuser, made.grid, *sampling, seed=0, rows=[0, 1], conditions=conditions)
        videos.append(drawing.video)
    assert torch.equal(*videos)
