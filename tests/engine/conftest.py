"""A run that takes a second: a tiny model on tiny moving digits."""

import pytest

import zoo  # noqa: F401
from vidiff.building import plan
from vidiff.config import load
from vidiff.engine.log import Console
from vidiff.engine.parallel import world
from vidiff.engine.run import RunFolder
from vidiff.engine.train import train

TINY = """\
name: tiny
data: {name: moving_digits, size: 16, frames: 4, digits: 1, digit_size: 8, length: 40}
tokenizer: {name: tubelet, size: [2, 4, 8]}
backbone: {name: dit_joint, dim: 24, depth: 2, num_heads: 3, dropout: 0.1}
conditioner: label
positions: learned
objective: rectified_flow
sampler: {name: euler, steps: 3}
train: {steps: 7, batch_size: 6}
optimizer: {lr: 1.0e-3}
schedule: {warmup_steps: 2}
checkpoint: {every: 3, keep: 3}
log: {every: 2, tensorboard: false}
"""


@pytest.fixture
def yaml_file(tmp_path):
    """The tiny configuration as a file."""
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY)
    return file


@pytest.fixture
def start(yaml_file, tmp_path):
    """start(*overrides, out="run", **flags): train the tiny configuration in this process, return its folder."""

    def go(*overrides, out="run", resume="auto", file=yaml_file, **flags):
        here = world("cpu")
        made = plan(load(file, overrides))
        folder = RunFolder(tmp_path / out)
        folder.open(made.config, **flags)
        console = Console(folder.path / "log.txt", quiet=True)
        try:
            train(made, folder, here, console, resume, 0.0)
        finally:
            console.close()
            folder.close()
        return folder.path

    return go
