"""The panel is fixed, its errors are those of `estimate`, and a level out of reach is refused before the run."""

import json

import pytest
import torch

import zoo  # noqa: F401
from vidiff.building import build_dataset, build_diffuser, plan
from vidiff.config import ConfigError, load
from vidiff.engine.checkpoint import fill
from vidiff.engine.checkpoint import load as load_checkpoint
from vidiff.engine.data import collate
from vidiff.engine.log import read_journal
from vidiff.engine.parallel import world
from vidiff.engine.preflight import preflight
from vidiff.random import Random

PANEL = "callbacks.x0_error={every: 3, num: 5, batch_size: 2, levels: [-1.0, 3.0]}"


def record(run):
    return json.loads((run / "eval/x0_error.json").read_text())


def test_the_numbers_are_the_errors_of_the_averaged_weights(start, yaml_file):
    run = start(PANEL)
    config = load(yaml_file)
    diffuser = build_diffuser(config, build_dataset(config, "train"))
    fill(diffuser, load_checkpoint(run / "checkpoints/step_00000007", ("ema",)).tensors["ema"], "ema")
    diffuser.eval()
    held_out = build_dataset(config, "val")
    batch = collate([held_out[i] for i in range(5)])
    with torch.no_grad():
        z = diffuser.encode(batch["video"])
        noise = Random(0, "x0_error", rows=range(5)).normal(z.shape)
        for column, level in enumerate((-1.0, 3.0)):
            ratio = torch.tensor(-level / 2).exp()  # sigma / alpha; on the linear path alpha + sigma = 1
            t = (ratio / (1 + ratio)).double().expand(5)
            x_t = (1 - t)[:, None, None, None, None] * z + t[:, None, None, None, None] * noise
            velocity = diffuser.backbone(x_t.float(), t.float(), diffuser.conditions(batch, 5)[0])
            expected = (x_t - t[:, None, None, None, None] * velocity - z).square().mean((1, 2, 3, 4))
            found = torch.tensor(record(run)["clips"], dtype=torch.float64)[:, column]
            torch.testing.assert_close(found, expected.double(), rtol=1e-4, atol=1e-6)


def test_means_go_to_the_journal_at_every_interval_and_at_the_end(start):
    run = start(PANEL)
    events = [e for e in read_journal(run / "metrics.jsonl") if "val/x0_error" in e]
    assert [e["step"] for e in events] == [3, 6, 7]
    last, clips = events[-1], torch.tensor(record(run)["clips"], dtype=torch.float64)
    assert record(run)["step"] == 7 and clips.shape == (5, 2)
    assert last["val/x0_error"] == pytest.approx(clips.mean().item())
    assert last["val/x0_error/logsnr_-1"] == pytest.approx(clips[:, 0].mean().item())
    assert last["val/x0_error/logsnr_3"] == pytest.approx(clips[:, 1].mean().item())


def test_a_level_out_of_reach_is_refused_before_the_run(yaml_file):
    made = plan(load(yaml_file, ["objective.interval=[0.0, 0.5]", "callbacks.x0_error={levels: [-2.0]}"]))
    with pytest.raises(ConfigError, match="callback x0_error: log-SNR -2 is not reached"):
        preflight(made, world("cpu"))
    made = plan(load(yaml_file, ["callbacks.x0_error={levels: []}"]))
    with pytest.raises(ConfigError, match="levels is empty"):
        preflight(made, world("cpu"))


def test_an_objective_that_believes_no_x0_is_refused_before_the_run(yaml_file):
    made = plan(
        load(yaml_file, ["objective.name=consistency", "sampler.name=consistency", "callbacks.x0_error={every: 2}"])
    )
    with pytest.raises(ConfigError, match="callback x0_error: this objective answers where a trajectory ends"):
        preflight(made, world("cpu"))
