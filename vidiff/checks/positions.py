"""What every positions promises: vidiff.types.Positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidiff.checks.parts import Beside, require
from vidiff.registry import Component
from vidiff.types import Grid

DIM, HEAD, GRID, OTHER = 48, 24, Grid(9, 3, 4, 5), Grid(9, 6, 2, 7)


def make(component: Component, axes: str, seed: int = 0) -> nn.Module:
    """A tiny one for these axes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return component.build(component.tiny, dim=DIM, head_dim=HEAD, grid=GRID, axes=axes)


def coordinates(axes: str, grid: Grid) -> Tensor:
    """The indices of every cell along these axes: (*sizes,axes)."""
    along = [torch.arange(getattr(grid, axis), dtype=torch.float32) for axis in axes]
    return torch.stack(torch.meshgrid(*along, indexing="ij"), dim=-1)


def says_it_for_every_cell(component: Component) -> None:
    """added gives (*sizes,D), rotation cos and sin (*sizes,Dh), on the grid of training and on another."""
    for axes in ("thw", "hw", "t"):
        for grid in (GRID, OTHER):
            positions, coords = make(component, axes), coordinates(axes, grid)
            added, rotation = positions.added(coords), positions.rotation(coords)
            sizes = tuple(coords.shape[:-1])
            require(added is None or tuple(added.shape) == (*sizes, DIM), f"added is not {(*sizes, DIM)} over {axes}.")
            for part in rotation or ():
                fits = tuple(part.shape) in ((*sizes, HEAD), (*sizes, DIM))
                require(fits, f"rotation is {tuple(part.shape)} over {axes}, expected {(*sizes, HEAD)}.")
                require(part.isfinite().all(), f"rotation is not finite over {axes}.")


def tells_places_apart(component: Component) -> None:
    """No two places are told the same: a network could not tell them apart."""
    for axes in ("thw", "hw", "t"):
        positions, coords = make(component, axes), coordinates(axes, GRID)
        parts = [positions.added(coords), *(positions.rotation(coords) or ())]
        said = [part.flatten(0, -2) for part in parts if part is not None]
        if not said:
            raise Beside("it says nothing")
        together = torch.cat(said, dim=-1)
        nearest = (torch.cdist(together, together) + 1e9 * torch.eye(len(together))).min().item()
        require(nearest > 1e-3, f"two places over {axes} are {nearest:.2g} apart.")


def rotations_keep_lengths(component: Component) -> None:
    """cos^2 + sin^2 = 1, and both channels of a pair (2i, 2i+1) turn by the same angle."""
    rotation = make(component, "thw").rotation(coordinates("thw", GRID))
    if rotation is None:
        raise Beside("it rotates nothing")
    cos, sin = rotation
    off = (cos**2 + sin**2 - 1).abs().max().item()
    require(off <= 1e-5, f"cos^2 + sin^2 is off 1 by {off:.3g}.")
    require(torch.equal(cos[..., ::2], cos[..., 1::2]), "the two channels of a pair turn differently.")


def holds_nothing_by_size(component: Component) -> None:
    """A state dict holds parameters only: tables that can be computed are computed from coordinates."""
    positions = make(component, "thw")
    extra = set(positions.state_dict()) - {name for name, _ in positions.named_parameters()}
    require(not extra, f"the state holds {', '.join(sorted(extra))}.")


CHECKS = (says_it_for_every_cell, tells_places_apart, rotations_keep_lengths, holds_nothing_by_size)
