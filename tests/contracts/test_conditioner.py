"""What every registered conditioner promises beside vidiff.checks.conditioner, which test_checks.py runs on them all."""

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.registry import CONDITIONERS
from vidiff.types import Grid

B, WIDTH, CLASSES = 3, 20, 7
GRID = Grid(6, 4, 5, 2)
ROUTES = ("vector", "tokens", "channels", "coords", "image")


@pytest.fixture(params=CONDITIONERS.names())
def conditioner(request):
    return made(CONDITIONERS[request.param])


def made(component, seed=0):
    torch.manual_seed(seed)
    return component.build(component.tiny, width=WIDTH, num_classes=CLASSES, grid=GRID).eval()


def batch():
    text = ["a four", "a zero", "a six"]
    return {
        "label": torch.tensor([4, 0, 6]),
        "text": text,
        "fps": torch.tensor([8.0, 5.0, 3.0]),
        "text_tokens": torch.randn(B, 5, 10, generator=torch.Generator().manual_seed(1)),
        "text_mask": torch.arange(5) < torch.tensor([[2], [4], [5]]),
        **clips(seed=2),
    }


def clips(seed):
    """A video, its latent, its size, and a camera that moves and turns."""
    random = torch.Generator().manual_seed(seed)
    loudness = torch.tensor([2, 8, 32], dtype=torch.uint8).reshape(B, 1, 1, 1, 1)
    turns = torch.linalg.qr(torch.randn(B, 8, 3, 3, generator=random)).Q
    return {
        "video": torch.randint(256, (B, 3, 8, 10, 12), dtype=torch.uint8, generator=random) // loudness,
        "latent": torch.randn(B, *GRID, generator=random),
        "size": torch.randint(100, 900, (B, 2), generator=random),
        "image_tokens": torch.randn(B, 6, 14, generator=random),
        "latent_beside": torch.randn(B, 4, *GRID[1:], generator=random),
        "text_vector": torch.randn(B, 6, generator=random),
        "camera": torch.cat([turns, torch.randn(B, 8, 3, 1, generator=random)], dim=-1),
        "intrinsics": 0.5 + torch.rand(B, 4, generator=random),
    }


def drop(*which):
    return torch.tensor([i in which for i in range(B)])


def values(cond):
    return {route: getattr(cond, route) for route in ROUTES if getattr(cond, route) is not None}


def test_it_names_what_it_reads_and_misses_it(conditioner):
    """With those entries alone it answers; without any it names one of them in one line."""
    reads = conditioner.reads
    assert isinstance(reads, frozenset) and reads <= set(batch())
    alone = {key: batch()[key] for key in reads}
    assert set(values(conditioner(alone, drop()))) == set(conditioner.spec.provides)
    if reads:
        with pytest.raises((ValueError, KeyError), match="|".join(reads)) as error:
            conditioner({}, drop())
        assert "\n" not in str(error.value)


def test_every_parameter_learns(conditioner):
    """From a batch in which some conditions are dropped and others are not."""
    parts = values(conditioner(batch(), drop(1))).values()
    loss = sum((part * torch.randn(part.shape, generator=torch.Generator().manual_seed(3))).sum() for part in parts)
    for key, p in conditioner.named_parameters():
        (grad,) = torch.autograd.grad(loss, p, retain_graph=True)
        assert grad.isfinite().all() and (grad != 0).any(), key


def test_different_conditions_differ_and_samples_do_not_meet(conditioner):
    for route, value in values(conditioner(batch(), drop())).items():
        assert not torch.equal(value[0], value[1])
        alone = {k: v[1:2] for k, v in batch().items()}
        assert torch.allclose(values(conditioner(alone, torch.tensor([False])))[route][0], value[1], atol=1e-6)


def test_its_state_makes_the_round_trip(conditioner):
    component = next(c for c in CONDITIONERS if c.target is type(conditioner))
    fresh = made(component, seed=1)
    fresh.load_state_dict(conditioner.state_dict())
    for a, b in zip(*(values(c(batch(), drop(0))).values() for c in (conditioner, fresh)), strict=True):
        assert torch.equal(a, b)
