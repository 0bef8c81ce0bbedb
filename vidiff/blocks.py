"""Stepping between a backbone's blocks while one call of it lasts: what guidance disturbs and what caches leave out.

A backbone takes part by saying `streams`: so many tensors, batch first, go into each block as its first inputs
and come out of it changed, in shapes as they were. U-Nets, whose levels change sizes, say nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[..., Any]
"""(block, *inputs) -> what the block would have answered, or something else."""


class Rows:
    """Which rows of a joint batch a network works on right now: all of them, unless a cache leaves some out."""

    def __init__(self, num: int, device: torch.device):
        self.now = torch.arange(num, device=device)

    @contextmanager
    def narrowed(self, index: Tensor) -> Iterator[None]:
        """Within, only the rows of this index (n,) are worked on."""
        whole, self.now = self.now, self.now[index]
        try:
            yield
        finally:
            self.now = whole

    def within(self, span: range, like: Tensor) -> Tensor:
        """Whether each row of `like` (B*k,...) belongs to the span: bool (B*k,1,...).

        k is what a network folds into its batch (frames, places), the batch first.
        """
        mine = (self.now >= span.start) & (self.now < span.stop)
        return mine.repeat_interleave(len(like) // len(mine)).reshape(-1, *[1] * (like.ndim - 1))


class Standing(nn.Module):
    """Stands in a module's place: `step(module, *inputs)` answers; whatever else is asked for is the module's."""

    def __init__(self, module: nn.Module, step: Step):
        super().__init__()
        self.module, self.step = module, step

    def forward(self, *inputs: Any) -> Any:
        """What the step says."""
        return self.step(self.module, *inputs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


@contextmanager
def replaced(places: Iterable[tuple[nn.Module, str]], step: Callable[[int], Step]) -> Iterator[None]:
    """For a while `step(i)` answers for the i-th of these children, given as (parent, name)."""
    places = list(places)
    before = [parent.get_submodule(name) for parent, name in places]
    try:
        for i, (parent, name) in enumerate(places):
            setattr(parent, name, Standing(before[i], step(i)))
        yield
    finally:
        for (parent, name), module in zip(places, before, strict=True):
            setattr(parent, name, module)


def places_of(backbone: nn.Module, blocks: Iterable[int] | None = None) -> list[tuple[nn.Module, str]]:
    """Where these blocks (all, for None) stand, as (parent, name)."""
    return [(backbone.blocks, str(i)) for i in (range(len(backbone.blocks)) if blocks is None else blocks)]


def as_streams(output: Any) -> tuple[Tensor | None, ...]:
    """A block's answer as a tuple of streams; None where the last block gives one back no more."""
    return output if isinstance(output, tuple) else (output,)


def check_streams(backbone: nn.Module) -> None:
    """Raises ValueError for a backbone whose blocks do not give back what they take."""
    if not getattr(backbone, "streams", 0):
        name = type(backbone).__name__
        raise ValueError(f"the blocks of {name} change sizes, so none can be left out. Use a transformer backbone.")


def check_blocks(backbone: nn.Module, blocks: Iterable[int]) -> None:
    """Raises ValueError for a number that is no block."""
    num = len(backbone.blocks)
    wrong = [i for i in blocks if i >= num]
    if wrong:
        raise ValueError(f"there is no block {wrong[0]}: the backbone has {num}, 0 to {num - 1}.")


def narrowed(inputs: Any, index: Tensor, num: int, folds: int = 1) -> Any:
    """Of a block's inputs the rows of this index, where they have `num` rows; nested in tuples and lists as well.

    Tensors of three axes or more and masks are batch first, of which each row may be `folds` (frames, places); what
    else depends on the batch has a `narrowed` of its own.
    """
    if isinstance(inputs, Tensor):
        if inputs.ndim < 2 or (inputs.ndim == 2 and inputs.dtype != torch.bool):
            return inputs
        if len(inputs) == num * folds:
            return inputs.unflatten(0, (num, folds))[index].flatten(0, 1)
        return inputs[index] if len(inputs) == num else inputs
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(narrowed(one, index, num, folds) for one in inputs)
    return inputs.narrowed(index, num) if hasattr(inputs, "narrowed") else inputs
