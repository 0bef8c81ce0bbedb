"""What every positions promises: vidiff.types.Positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.checks.parts import Beside, require, watched_dice
from vidiff.registry import Component
from vidiff.types import Grid

DIM, HEAD, GRID, OTHER = 48, 24, Grid(9, 3, 4, 5), Grid(9, 6, 2, 7)
AXES = ("thw", "hw", "t")


def make(component: Component, axes: str, seed: int = 0) -> nn.Module:
    """A tiny one for these axes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return component.build(component.tiny, dim=DIM, head_dim=HEAD, grid=GRID, axes=axes)


def coordinates(axes: str, grid: Grid) -> Tensor:
    """The indices of every cell along these axes: (*sizes,axes)."""
    along = [torch.arange(getattr(grid, axis), dtype=torch.float32) for axis in axes]
    return torch.stack(torch.meshgrid(*along, indexing="ij"), dim=-1)


def told(positions: nn.Module, coords: Tensor) -> Tensor | None:
    """Everything that is said of each token, (N, whatever), or None."""
    parts = [positions.added(coords), *(positions.rotation(coords) or ())]
    said = [part.flatten(0, -2) for part in parts if part is not None]
    return torch.cat(said, dim=-1) if said else None


def says_it_for_every_cell(component: Component) -> None:
    """added gives (*sizes,D), rotation cos and sin (*sizes,Dh), on the grid of training and on another."""
    for axes in AXES:
        for grid in (GRID, OTHER):
            positions, coords = make(component, axes), coordinates(axes, grid)
            added, rotation = positions.added(coords), positions.rotation(coords)
            sizes = tuple(coords.shape[:-1])
            require(added is None or tuple(added.shape) == (*sizes, DIM), f"added is not {(*sizes, DIM)} over {axes}.")
            require(added is None or added.isfinite().all(), f"added is not finite over {axes}.")
            for part in rotation or ():
                fits = tuple(part.shape) in ((*sizes, HEAD), (*sizes, DIM)) and part.shape == rotation[0].shape
                require(fits, f"rotation is {tuple(part.shape)} over {axes}, expected {(*sizes, HEAD)}.")
                require(part.isfinite().all(), f"rotation is not finite over {axes}.")


def tells_places_apart(component: Component) -> None:
    """No two places are told the same: a network could not tell them apart."""
    for axes in AXES:
        for grid in (GRID, OTHER):
            said = told(make(component, axes), coordinates(axes, grid))
            if said is None:
                raise Beside("it says nothing")
            nearest = (torch.cdist(said, said) + 1e9 * torch.eye(len(said))).min().item()
            require(nearest > 1e-3, f"two places over {axes} of {tuple(grid[1:])} are {nearest:.2g} apart.")


def rotations_keep_lengths(component: Component) -> None:
    """cos^2 + sin^2 = 1, and both channels of a pair (2i, 2i+1) turn by the same angle."""
    for axes in AXES:
        for grid in (GRID, OTHER):
            rotation = make(component, axes).rotation(coordinates(axes, grid))
            if rotation is None:
                raise Beside("it rotates nothing")
            cos, sin = rotation
            off = (cos**2 + sin**2 - 1).abs().max().item()
            require(off <= 1e-5, f"cos^2 + sin^2 is off 1 by {off:.3g} over {axes}.")
            same = torch.equal(cos[..., ::2], cos[..., 1::2]) and torch.equal(sin[..., ::2], sin[..., 1::2])
            require(same, f"the two channels of a pair turn differently over {axes}.")


def keeps_its_state(component: Component) -> None:
    """A state dict holds parameters only, for tables that can be computed are computed from coordinates; and it holds
    all there is to know: positions that load it say the same."""
    for axes in AXES:
        positions, fresh = make(component, axes), make(component, axes, seed=1)
        extra = set(positions.state_dict()) ^ {name for name, _ in positions.named_parameters()}
        require(not extra, f"{', '.join(sorted(extra))} is in the state or a parameter, not both.")
        fresh.load_state_dict(positions.state_dict())
        one, other = (told(p, coordinates(axes, GRID)) for p in (positions, fresh))
        require(one is None or torch.equal(one, other), f"what is loaded says something else over {axes}.")


def every_parameter_learns(component: Component) -> None:
    """Every entry of every table has a gradient on the grid of training: one that has none is never trained."""
    positions = make(component, "thw")
    if not list(positions.parameters()):
        raise Beside("it has no parameters")
    positions.added(coordinates("thw", GRID)).square().sum().backward()
    for name, p in positions.named_parameters():
        without = p.numel() if p.grad is None else int((p.grad == 0).sum())
        require(without == 0, f"{without} of the {p.numel()} entries of {name} have none.")


def plans_on_the_meta_device(component: Component) -> None:
    """Built and asked on the meta device, where a plan counts parameters and FLOPs, without a throw of dice."""
    with watched_dice(), torch.device("meta"):
        positions = component.build(component.tiny, dim=DIM, head_dim=HEAD, grid=GRID, axes="thw")
        coords = torch.zeros(2, 3, 7, 3)
        parts = [positions.added(coords), *(positions.rotation(coords) or ())]
    stray = [part.device.type for part in parts if part is not None and part.device.type != "meta"]
    require(not stray, f"it computes on {', '.join(stray)} whatever the coordinates' device.")


CHECKS = (says_it_for_every_cell, tells_places_apart, rotations_keep_lengths, keeps_its_state, every_parameter_learns,
          plans_on_the_meta_device)  # fmt: skip
