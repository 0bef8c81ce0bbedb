"""Which devices a name may mean, whatever this machine has."""

import pytest
import torch

from vidiff.engine.parallel import pick_device
from vidiff.errors import Refused


@pytest.fixture
def machine(monkeypatch):
    """machine(cuda=2, mps=False): a machine that has so much."""

    def have(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return have


def test_what_is_there_is_picked(machine):
    machine(cuda=2, mps=True)
    names = ["auto", "cuda", "cuda:0", "cuda:01", "mps", "mps:0", "cpu", "cpu:0"]
    picked = [str(pick_device(name)) for name in names]
    assert picked == ["cuda", "cuda", "cuda:0", "cuda:1", "mps", "mps", "cpu", "cpu"]
    for have, best in ((dict(mps=True), "mps"), ({}, "cpu")):
        machine(**have)
        assert str(pick_device("auto")) == best


# torch reads cpu:3 as a CPU, cuda:256 as cuda:0 and cuda:128 as number -128
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cpu:3", "is not available here; there is cpu."),
        ("mps:1", "is not available here; there is mps."),
        ("cuda:2", "is not available here; there is cuda:0, cuda:1."),
        ("cuda:9", "is not available here; there is cuda:0, cuda:1."),
        ("cuda:128", "is not available here; there is cuda:0, cuda:1."),
        ("cuda:256", "is not available here; there is cuda:0, cuda:1."),
        *((name, "is not one of auto, cpu, cuda, cuda:N, mps.") for name in ("meta", "xpu", "gpu", "cpu:", "CPU", "")),
    ],
)
def test_what_is_not_there_is_refused(machine, name, told):
    machine(cuda=2, mps=True)
    with pytest.raises(Refused) as caught:
        pick_device(name)
    assert str(caught.value) == f"device '{name}' {told}"


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:9", "mps"])
def test_a_kind_that_is_not_there_is_refused(machine, name):
    machine()
    with pytest.raises(Refused) as caught:
        pick_device(name)
    assert str(caught.value) == f"device '{name}' is not available here; use cpu or auto."
