"""SDEdit: the flow from a noised video."""

import torch

import zoo  # noqa: F401
from tests.zoo.tasks.exact import Columns, K, Many, Z, canvas, moments, sampling, take
from vidiff.registry import build


def test_sdedit_transports_the_noised_video():
    """One Gaussian: from x_s the flow is K^1/2 C_s^-1/2, C_s = alpha^2 K + sigma^2."""
    task = build("task", {"name": "sdedit", "strength": 0.6}, canvas=canvas(6))
    at = take(task, sampling(Columns(1), steps=256), Z)
    mean, covariance = moments(task(at))
    values, axes = torch.linalg.eigh(K)
    flow = axes @ torch.diag((values / (0.4**2 * values + 0.6**2)).sqrt()) @ axes.T
    assert torch.allclose(mean, flow @ (0.4 * Z), atol=2e-3)
    assert torch.allclose(covariance, 0.36 * flow @ flow.T, atol=2e-3)


def test_sdedit_of_strength_1_is_generate_to_the_bit_and_of_little_strength_the_video():
    outs = {}
    for name, task in {"all": {"name": "sdedit", "strength": 1.0}, "none": "generate", "bit": "sdedit"}.items():
        made = build("task", {"name": "sdedit", "strength": 0.01} if name == "bit" else task, canvas=canvas(4))
        at = sampling(Many(), "euler", 9, pixels=4)
        outs[name] = made(at if name == "none" else take(made, at, Z))
    assert torch.equal(outs["all"], outs["none"])
    assert (outs["bit"][0, 0, :, 0] - Z[:, None]).abs().max() < 0.05
