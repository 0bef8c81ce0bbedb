"""What every registered positions promises."""

import pytest
import torch

import zoo.positions  # noqa: F401
from vidiff.registry import POSITIONS
from vidiff.types import Grid
from zoo.layers.embeddings import coordinates

DIM, HEAD = 48, 24
GRID = Grid(9, 3, 4, 5)
CPU = torch.device("cpu")
AXES = ["thw", "hw", "t"]


@pytest.fixture(params=POSITIONS.names())
def component(request):
    return POSITIONS[request.param]


def make(component, axes, grid=GRID, seed=0):
    torch.manual_seed(seed)
    return component.build(component.tiny, dim=DIM, head_dim=HEAD, grid=grid, axes=axes)


def sizes_of(axes, grid=GRID):
    return tuple(getattr(grid, axis) for axis in axes)


def told(positions, axes, sizes):
    """Everything that is said of each token: (N, whatever)."""
    coords = coordinates(sizes, CPU)
    parts = [positions.added(coords), *(positions.rotation(coords) or ())]
    parts = [p.flatten(0, -2) for p in parts if p is not None]
    return torch.cat(parts, dim=-1) if parts else None


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("grid", [GRID, Grid(9, 6, 2, 7)])
def test_shapes_on_the_training_grid_and_on_another(component, axes, grid):
    positions, sizes = make(component, axes), sizes_of(axes, grid)
    coords = coordinates(sizes, CPU)
    added, rotation = positions.added(coords), positions.rotation(coords)
    assert added is None or (added.shape == (*sizes, DIM) and added.isfinite().all())
    if rotation is not None:
        cos, sin = rotation
        assert cos.shape == sin.shape and cos.shape in ((*sizes, HEAD), (*sizes, DIM))
        assert torch.allclose(cos**2 + sin**2, torch.ones(()), atol=1e-6)
        assert torch.equal(cos[..., ::2], cos[..., 1::2]) and torch.equal(sin[..., ::2], sin[..., 1::2])


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("grid", [GRID, Grid(9, 6, 2, 7)])
def test_no_two_places_are_told_the_same(component, axes, grid):
    said = told(make(component, axes), axes, sizes_of(axes, grid))
    if said is None:
        pytest.skip("says nothing")
    distance = torch.cdist(said, said) + 1e9 * torch.eye(len(said))
    assert distance.min() > 1e-3


@pytest.mark.parametrize("axes", AXES)
def test_the_state_holds_parameters_only_and_makes_the_round_trip(component, axes):
    positions, fresh = make(component, axes), make(component, axes, seed=1)
    assert set(positions.state_dict()) == {name for name, _ in positions.named_parameters()}
    fresh.load_state_dict(positions.state_dict())
    sizes = sizes_of(axes)
    if told(positions, axes, sizes) is not None:
        assert torch.equal(told(fresh, axes, sizes), told(positions, axes, sizes))


def test_parameters_learn(component):
    positions = make(component, "thw")
    for p in positions.parameters():
        positions.added(coordinates(sizes_of("thw"), CPU)).square().sum().backward()
        assert (p.grad != 0).all()


def test_the_meta_device_and_no_dice(component):
    rng = torch.get_rng_state()
    with torch.device("meta"):
        positions = component.build(component.tiny, dim=DIM, head_dim=HEAD, grid=GRID, axes="thw")
        coords = coordinates((2, 3, 7), torch.device("meta"))
        positions.added(coords)
        positions.rotation(coords)
    assert torch.equal(torch.get_rng_state(), rng)
