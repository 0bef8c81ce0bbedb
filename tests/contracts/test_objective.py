"""What every registered objective promises."""

import pytest
import torch
from torch import nn

import zoo.objectives  # noqa: F401
from tests.teacher import built
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Origin

B, SHAPE = 2, (3, 4, 5, 6)


class Net(nn.Module):
    """A tiny network that uses its input and its time."""

    def __init__(self, outputs: int, dtype: torch.dtype):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3 * outputs, dtype=dtype)])
        self.dtype, self.labels = dtype, []

    def forward(self, x, label, cond):
        self.labels.append(label)
        wave = torch.sin(label.to(self.dtype)).reshape(len(label), 1, -1, 1, 1)
        tokens = (x.to(self.dtype) + wave).movedim(1, -1)
        return self.blocks[0](tokens.flatten(2, 3)).reshape(*tokens.shape[:4], -1).movedim(-1, 1)


@pytest.fixture(params=OBJECTIVES.names())
def objective(request):
    return built(OBJECTIVES[request.param], OBJECTIVES[request.param].tiny)


def data(num=B, dtype=torch.float32):
    return torch.randn(num, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=dtype)


def random(rows=range(B), step=1):
    return Random(9, "train", step, rows=rows, first=0, total=B)


def told(objective, rows=range(B)):
    """A condition that knows, as the Diffuser's do, which clips it belongs to."""
    clips = torch.randint(256, (B, 3, 8, 20, 24), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    batch = {"video": clips[list(rows)], **objective.entries(data()[list(rows)], random(rows))}
    return Cond(origin=Origin(batch, torch.zeros(len(rows), dtype=torch.bool)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_loss_is_finite_and_trains_the_network(objective, dtype):
    net = Net(objective.outputs, dtype)
    out = objective.loss(net, data(dtype=dtype), told(objective), random())
    assert out["loss"].shape == () and out["mse"].shape == (B,) and out["time"].shape == (B,)
    assert out["loss"].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert all(v.isfinite().all() for v in out.values())
    out["loss"].backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in net.parameters())
    assert not out["mse"].requires_grad and not out["time"].requires_grad


def test_rows_are_independent_of_the_batch_they_come_in(objective):
    """Accumulation: the mean of the rows' own losses is the loss of the batch."""
    net, x0 = Net(objective.outputs, torch.float64), data(dtype=torch.float64)
    whole = objective.loss(net, x0, told(objective), random())
    rows = [objective.loss(net, x0[i : i + 1], told(objective, [i]), random([i])) for i in range(B)]
    rtol = 1e-6 if any(True for _ in objective.parameters()) else 1e-12  # parameters of its own are float32
    assert torch.allclose(torch.stack([r["loss"] for r in rows]).mean(), whole["loss"], rtol=rtol)
    assert torch.allclose(torch.cat([r["mse"] for r in rows]), whole["mse"], rtol=1e-12)
    assert torch.equal(torch.cat([r["time"] for r in rows]), whole["time"])


def test_the_same_draws_give_the_same_loss_and_others_do_not(objective):
    net, x0 = Net(objective.outputs, torch.float32), data()
    first, again, later = (objective.loss(net, x0, told(objective), random(step=s))["loss"] for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, later)


def test_estimates_have_the_shape_of_the_latent_and_are_finite_from_noise_to_data(objective):
    net = Net(objective.outputs, torch.float32)
    for level in (objective.interval[1], 0.5, objective.interval[0]):
        t = torch.full((B,), level, dtype=torch.float64)
        estimate = objective.estimate(net, data(), t, Cond())
        assert all(e.shape == (B, *SHAPE) and e.dtype == torch.float32 and e.isfinite().all() for e in estimate)


def test_a_time_per_frame_works_and_equals_one_time_when_all_are_the_same(objective):
    net, x0 = Net(objective.outputs, torch.float64), data(dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    one = objective.loss_at(net, x0, noise, t, Cond())
    each = objective.loss_at(net, x0, noise, t[:, None].expand(B, 4), Cond())
    assert torch.allclose(one["loss"], each["loss"], rtol=1e-12) and torch.allclose(one["mse"], each["mse"], rtol=1e-12)
    different = objective.loss_at(net, x0, noise, torch.rand(B, 4, dtype=torch.float64) * 0.8 + 0.1, Cond())
    assert different["loss"].isfinite() and net.labels[-1].shape == (B, 4)


def test_leaves_the_global_generator_alone(objective):
    net, before = Net(objective.outputs, torch.float32), torch.get_rng_state()
    objective.loss(net, data(), told(objective), random())
    assert torch.equal(before, torch.get_rng_state())
