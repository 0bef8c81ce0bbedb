"""What every registered conditioner promises."""

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.registry import CONDITIONERS
from vidiff.types import Cond, CondSpec, Grid

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
        "camera": torch.cat([turns, torch.randn(B, 8, 3, 1, generator=random)], dim=-1),
        "intrinsics": 0.5 + torch.rand(B, 4, generator=random),
    }


def drop(*which):
    return torch.tensor([i in which for i in range(B)])


def values(cond):
    return {route: getattr(cond, route) for route in ROUTES if getattr(cond, route) is not None}


def test_it_gives_what_its_spec_says(conditioner):
    assert isinstance(conditioner.spec, CondSpec)
    cond = conditioner(batch(), drop())
    assert isinstance(cond, Cond) and set(values(cond)) == set(conditioner.spec.provides)
    if conditioner.spec.vector:
        assert cond.vector.shape == (B, conditioner.spec.vector)
    if conditioner.spec.tokens:
        assert cond.tokens.shape == (B, conditioner.spec.length, conditioner.spec.tokens)
        assert cond.mask is None or (cond.mask.shape == cond.tokens.shape[:2] and cond.mask.dtype == torch.bool)
    if conditioner.spec.channels:
        assert cond.channels.shape == (B, conditioner.spec.channels, *GRID[1:])
    if conditioner.spec.image:
        assert cond.image.ndim == 3 and cond.image.shape[::2] == (B, conditioner.spec.image)


def test_drop_is_a_probability(conditioner):
    drops = conditioner.drop if isinstance(conditioner.drop, tuple) else (conditioner.drop,)
    assert all(isinstance(p, float) and 0.0 <= p <= 1.0 for p in drops)


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


def test_what_is_dropped_is_null_whatever_it_was(conditioner):
    other = {**batch(), "label": torch.tensor([1, 5, 2]), "text": ["x", "y", "z"], "text_tokens": torch.ones(B, 5, 10)}
    other |= {**clips(seed=9), "fps": torch.tensor([1.0, 2.0, 4.0])}
    for a, b in zip(*(values(conditioner(v, drop(0, 1, 2))).values() for v in (batch(), other)), strict=True):
        assert torch.equal(a, b)


def test_dropping_one_sample_leaves_the_others(conditioner):
    kept, dropped = values(conditioner(batch(), drop())), values(conditioner(batch(), drop(1)))
    for route in kept:
        assert torch.equal(kept[route][[0, 2]], dropped[route][[0, 2]])
        assert not torch.equal(kept[route][1], dropped[route][1])


def test_different_conditions_differ_and_samples_do_not_meet(conditioner):
    for route, value in values(conditioner(batch(), drop())).items():
        assert not torch.equal(value[0], value[1])
        alone = {k: v[1:2] for k, v in batch().items()}
        assert torch.allclose(values(conditioner(alone, torch.tensor([False])))[route][0], value[1], atol=1e-6)


def test_it_draws_nothing_itself(conditioner):
    conditioner.train()
    rng = torch.get_rng_state()
    first, second = values(conditioner(batch(), drop(2))), values(conditioner(batch(), drop(2)))
    assert all(torch.equal(first[r], second[r]) for r in first)
    assert torch.equal(torch.get_rng_state(), rng)


def test_its_state_makes_the_round_trip(conditioner):
    component = next(c for c in CONDITIONERS if c.target is type(conditioner))
    fresh = made(component, seed=1)
    fresh.load_state_dict(conditioner.state_dict())
    for a, b in zip(*(values(c(batch(), drop(0))).values() for c in (conditioner, fresh)), strict=True):
        assert torch.equal(a, b)
