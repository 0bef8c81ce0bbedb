"""Several conditions at once, each dropped on its own.

Brooks et al. 2022, InstructPix2Pix (2211.09800), sec. 3.2.1: conditions that are dropped independently can be
guided separately. Vectors are added, all else stands side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vidiff.registry import CONDITIONERS
from vidiff.types import Batch, Cond, CondSpec, Fraction


@CONDITIONERS.register("several", tiny=dict(parts=["label", "fps"]), parts={"parts": "conditioner"})
class Several(nn.Module):
    """A list of conditioners. Each keeps its own probability of being dropped and its own null.

    `drop_all` is the probability of losing all of them together, which independent drops seldom do and guidance
    asks for.
    """

    def __init__(self, parts: list, drop_all: Fraction = 0.0, *, width: int):
        """Raises ValueError for no parts, `several` within `several`, or a vector that is not of the width."""
        super().__init__()
        if not parts or any(isinstance(part.drop, tuple) for part in parts):
            raise ValueError("conditioner=several takes a list of at least one conditioner, none of them 'several'.")
        specs = [part.spec for part in parts]
        wrong = [spec.vector for spec in specs if spec.vector not in (0, width)]
        if wrong or any(spec.coords for spec in specs):
            raise ValueError(f"conditioner=several adds vectors of width {width} and takes no coords; got {wrong}.")
        self.parts = nn.ModuleList(parts)
        self.drop = (*(float(part.drop) for part in parts), drop_all)
        self.reads = frozenset().union(*(getattr(part, "reads", ()) for part in parts))
        self.also = frozenset().union(*(getattr(part, "also", ()) for part in parts))
        self.entries = {entry: shape for part in parts for entry, shape in getattr(part, "entries", {}).items()}
        self.spec = CondSpec(
            vector=max(spec.vector for spec in specs),
            tokens=common([spec.tokens for spec in specs], width),
            length=sum(spec.length for spec in specs),
            channels=sum(spec.channels for spec in specs),
            image=common([spec.image for spec in specs], width),
            masked=any(spec.masked for spec in specs if spec.tokens),
        )
        self.widen = nn.ModuleList(widening(spec.tokens, self.spec.tokens) for spec in specs)
        self.widen_image = nn.ModuleList(widening(spec.image, self.spec.image) for spec in specs)

    def forward(self, batch: Batch, drop: Tensor) -> Cond:
        """drop (B,) for all parts, or (B,parts+1): a column for each part, the last one for all -> their sum.

        vector (B,width), tokens (B,L,D) with mask (B,L), channels (B,k,t,h,w), image (B,M,K), as far as there are
        any. Tokens of different widths are taken to the network's, by a Linear each.
        """
        columns = drop[:, None] if drop.ndim == 1 else drop[:, :-1] | drop[:, -1:]
        columns = columns.expand(-1, len(self.parts)).unbind(1)
        conds = [part(batch, column) for part, column in zip(self.parts, columns, strict=True)]
        tokens = [widen(c.tokens) for c, widen in zip(conds, self.widen, strict=True) if c.tokens is not None]
        masks = [seen(c) for c in conds if c.tokens is not None] if self.spec.masked else []
        images = [widen(c.image) for c, widen in zip(conds, self.widen_image, strict=True) if c.image is not None]
        return Cond(
            vector=total([c.vector for c in conds if c.vector is not None]),
            tokens=beside(tokens),
            mask=beside(masks),
            channels=beside([c.channels for c in conds if c.channels is not None]),
            image=beside(images),
        )


def common(widths: Sequence[int], network: int) -> int:
    """The width of all that is not 0: their own where they agree, else the network's."""
    given = {width for width in widths if width}
    return given.pop() if len(given) == 1 else network if given else 0


def widening(width: int, wanted: int) -> nn.Module:
    """A Linear from one width to the other, or nothing to do."""
    return nn.Linear(width, wanted) if width not in (0, wanted) else nn.Identity()


def seen(cond: Cond) -> Tensor:
    """The mask (B,L) of a condition's tokens; all of them are seen where it has none."""
    return cond.tokens.new_ones(cond.tokens.shape[:2], dtype=torch.bool) if cond.mask is None else cond.mask


def total(vectors: Sequence[Tensor]) -> Tensor | None:
    """The sum, or None of nothing."""
    return torch.stack(list(vectors)).sum(0) if vectors else None


def beside(parts: Sequence[Tensor]) -> Tensor | None:
    """Side by side along axis 1, or None of nothing."""
    return torch.cat(list(parts), dim=1) if parts else None
