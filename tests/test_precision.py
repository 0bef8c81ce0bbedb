"""What AMP leaves alone."""

import pytest
import torch
from torch import nn

from vidiff.precision import WideConv3d, no_autocast, widen_convolutions

CPU = torch.device("cpu")


@pytest.mark.parametrize(("channels", "dim", "grid"), [(32, 8, (2, 4, 5)), (12, 5, (3, 2, 4)), (128, 64, (2, 2, 2))])
def test_gradients_of_convolutions_under_amp_are_those_of_fp32(channels, dim, grid):
    """torch's own bf16 Conv3d fails this on some CPUs: benchmarks/conv3d_bf16.py."""
    for seed in range(12):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Conv3d(channels, dim, 3, padding=1), nn.SiLU(), nn.Conv3d(dim, channels, 1))
        x = torch.randn(3, channels, *grid)
        net(x).square().sum().backward()
        exact = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        widen_convolutions(net, CPU, "bf16")
        with torch.autocast("cpu", torch.bfloat16):
            net(x).square().sum().backward()
        assert all(torch.allclose(a, p.grad, rtol=1e-4, atol=1e-4) for a, p in zip(exact, net.parameters()))


def test_only_where_it_is_needed_and_names_stay():
    net = nn.Sequential(nn.Conv3d(2, 3, 1), nn.Linear(3, 3))
    names = list(net.state_dict())
    assert type(widen_convolutions(net, CPU, "fp32")[0]) is nn.Conv3d
    assert type(widen_convolutions(net, CPU, "bf16")[0]) is WideConv3d
    assert list(net.state_dict()) == names


def test_no_autocast():
    with torch.autocast("cpu", torch.bfloat16), no_autocast(CPU):
        assert (torch.ones(2, 3) @ torch.ones(3, 2)).dtype == torch.float32
    with no_autocast(torch.device("meta")):
        pass
