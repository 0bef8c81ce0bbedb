"""Factorized attention: space and time apart, in every arrangement of Latte, and sparser plans beside them.

Ma et al. 2024, Latte (2401.03048), sec. 3.2 and fig. 2, its variants by name:

    interleaved   1  blocks look within a frame and along time in turn
    late_fusion   2  all spatial blocks, then all temporal ones
    sequential    3  every block looks within the frame, then along time, then comes its MLP
    split_heads   4  half the heads of every block look within the frame, half along time; their results are added

and three that the field uses to save more (zoo/layers/patterns.py has their papers):

    axial            blocks look along a row, a column and time in turn
    windowed         windows of space-time, and the same windows shifted by half, in turn
    strided          windows of space-time, and the places at equal distance, in turn

A plan of one's own is a list of looks that blocks take in turn: [space, space, time].
With `causal`, frames see themselves and earlier ones only, in every plan. A text is read by cross-attention in every
block that looks within frames; purely temporal ones do not, as in Latte's model of text to video.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from vidiff.registry import BACKBONES
from vidiff.types import Attention, CondSpec, Count, Depth, Fraction, Grid, Positive
from zoo.layers.adaln import AdaLNHead, SharedModulation, Steering, modulate
from zoo.layers.attention import SelfAttention, head_dim, rotate
from zoo.layers.cross import CrossBlock
from zoo.layers.mlp import Activation
from zoo.layers.norms import Norm, QKNorm
from zoo.layers.patterns import COLUMN, ROW, SPACE, TIME, Meeting, Pattern, Reach
from zoo.layers.text import Seen, TextTransformer
from zoo.layers.transformer import Placing

PlanName = Literal["interleaved", "late_fusion", "sequential", "split_heads", "axial", "windowed", "strided"]
Look = Literal["space", "time", "row", "column", "window", "shifted", "stride"]


class Plan(NamedTuple):
    """What blocks look over, and whether these looks alternate, come one after the other or share every block."""

    looks: tuple[str, ...]
    arrangement: Literal["in_turn", "in_rows", "in_series", "by_heads"] = "in_turn"


PLANS: dict[str, Plan] = {
    "interleaved": Plan(("space", "time")),
    "late_fusion": Plan(("space", "time"), "in_rows"),
    "sequential": Plan(("space", "time"), "in_series"),
    "split_heads": Plan(("space", "time"), "by_heads"),
    "axial": Plan(("row", "column", "time")),
    "windowed": Plan(("window", "shifted")),
    "strided": Plan(("window", "stride")),
}


def plan_of(plan: PlanName | Sequence[Look]) -> Plan:
    """A plan by its name, or of looks in turn. Raises ValueError for none."""
    if not plan:
        raise ValueError("plan=[] has no look. Use plan=interleaved, or a list such as [space, space, time].")
    return PLANS[plan] if isinstance(plan, str) else Plan(tuple(plan))


def blocks_of(plan: PlanName | Sequence[Look], depth: int) -> list[tuple[str, ...]]:
    """The looks of each of `depth` blocks. Raises ValueError when the blocks do not come out even."""
    looks, arrangement = plan_of(plan)
    if arrangement in ("in_series", "by_heads"):
        return [looks] * depth
    rounds, rest = divmod(depth, len(looks))
    if rest:
        raise ValueError(
            f"depth={depth} does not split into blocks over {', '.join(looks)}. Use depth={(rounds + 1) * len(looks)}."
        )
    alone = [(look,) for look in looks]
    return alone * rounds if arrangement == "in_turn" else [look for look in alone for _ in range(rounds)]


def patterns(window: tuple[int, int, int]) -> dict[str, Pattern]:
    """Every look as a pattern; `window` (t,h,w) in latent cells is also the stride of the strided one."""
    return {
        "space": SPACE,
        "time": TIME,
        "row": ROW,
        "column": COLUMN,
        "window": Pattern(*(Reach(k) for k in window)),
        "shifted": Pattern(*(Reach(k, shifted=True) for k in window)),
        "stride": Pattern(*(Reach(k, strided=True) for k in window)),
    }


class LookingBlock(CrossBlock):
    """Attention within the groups of one pattern, to a text if it reads, then an MLP."""

    def attend(self, x: Tensor, meeting: Meeting) -> Tensor:
        """(B,t,S,D) -> (B,t,S,D)."""
        return meet(self.attn, x, meeting)


class SequentialBlock(CrossBlock):
    """Attention in space, attention in time, an MLP, modulated and gated: 25 D^2 weights. A text before the MLP."""

    vectors = 9

    def __init__(self, dim: int, num_heads: int, attention: Attention, qk_norm: QKNorm, dropout: float, **others):
        super().__init__(dim, num_heads, attention, qk_norm=qk_norm, dropout=dropout, **others)
        self.time_attn = SelfAttention(dim, num_heads, attention, qk_norm, dropout)

    def forward(self, x: Tensor, c: Tensor, space: Meeting, time: Meeting, *told: Any) -> Tensor:
        """x (B,t,S,D), c (B,t or 1,1,D) -> (B,t,S,D)."""
        shift_s, scale_s, gate_s, shift_t, scale_t, gate_t, shift_m, scale_m, gate_m = self.adaln(c, x.dtype)
        x = torch.addcmul(x, gate_s, meet(self.attn, modulate(x, shift_s, scale_s, self.norm), space))
        x = torch.addcmul(x, gate_t, meet(self.time_attn, modulate(x, shift_t, scale_t, self.norm), time))
        x = self.look(x, *told)
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift_m, scale_m, self.norm)))


class SplitBlock(CrossBlock):
    """Half the heads look over one pattern, half over another. One projection of both halves side by side is
    the sum of a projection of each."""

    def __init__(self, dim: int, num_heads: int, attention: Attention, **others):
        """Raises ValueError for an odd number of heads."""
        if num_heads % 2:
            raise ValueError(f"num_heads={num_heads} does not split into halves. Use num_heads={num_heads + 1}.")
        super().__init__(dim, num_heads, attention, **others)

    def forward(self, x: Tensor, c: Tensor, space: Meeting, time: Meeting, *told: Any) -> Tensor:
        """x (B,t,S,D), c (B,t or 1,1,D) -> (B,t,S,D)."""
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.adaln(c, x.dtype)
        x = torch.addcmul(x, gate_a, self.split(modulate(x, shift_a, scale_a, self.norm), space, time))
        x = self.look(x, *told)
        return torch.addcmul(x, gate_m, self.mlp(modulate(x, shift_m, scale_m, self.norm)))

    def split(self, x: Tensor, *meetings: Meeting) -> Tensor:
        """(B,t,S,D) -> (B,t,S,D)."""
        attn, t = self.attn, x.shape[1]
        qkv = rearrange(attn.qkv(x), "b t s (three h d) -> three b h (t s) d", three=3, h=attn.num_heads)
        q, k, v = attn.q_norm(qkv[0]), attn.k_norm(qkv[1]), qkv[2]
        halves = zip(*(rearrange(y, "b (half h) (t s) d -> half b t s (h d)", half=2, t=t) for y in (q, k, v)))
        looked = [self.half(*half, meeting) for half, meeting in zip(halves, meetings, strict=True)]
        return attn.dropout(attn.proj(torch.cat(looked, dim=-1)))

    def half(self, q: Tensor, k: Tensor, v: Tensor, meeting: Meeting) -> Tensor:
        """q k v (B,t,S,D/2) -> (B,t,S,D/2)."""
        h = self.attn.num_heads // 2
        q, k, v = (rearrange(meeting.gather(y), "g n (h d) -> g h n d", h=h) for y in (q, k, v))
        if meeting.rotation is not None:
            q, k = rotate(q, meeting.rotation), rotate(k, meeting.rotation)
        return meeting.scatter(rearrange(self.attn.attention(q, k, v, meeting.mask), "g h n d -> g n (h d)"))


def meet(attn: SelfAttention, x: Tensor, meeting: Meeting) -> Tensor:
    """(B,t,S,D) -> (B,t,S,D): attention within the groups of a meeting."""
    return meeting.scatter(attn(meeting.gather(x), meeting.rotation, meeting.mask))


BLOCKS = {"in_turn": LookingBlock, "in_rows": LookingBlock, "in_series": SequentialBlock, "by_heads": SplitBlock}


@BACKBONES.register("dit_factorized", tiny=dict(dim=48, depth=4, num_heads=2))
class DiTFactorized(TextTransformer):
    """A diffusion transformer that attends in space and in time apart, by a named plan (Latte).

    x (B,c,t,h,w), time (B,) or (B,t), cond.vector (B,dim), cond.tokens (B,L,K) -> (B,out_channels,t,h,w).
    `depth` counts blocks, spatial and temporal ones together where they are apart, as the paper does.
    `window` (t,h,w) in latent cells, for the plans that have windows; `causal`: frames do not see later ones.
    `modulation`: adaLN-Zero (a Linear in every block) or adaLN-single (one for all, and a table in each).
    """

    def __init__(
        self,
        dim: Count = 384,
        depth: Depth = 12,
        num_heads: Count = 6,
        plan: PlanName | tuple[Look, ...] = "interleaved",
        window: tuple[Count, Count, Count] = (2, 4, 4),
        causal: bool = False,
        mlp_ratio: Positive = 4.0,
        norm: Norm = "layer",
        qk_norm: QKNorm = "none",
        modulation: Steering = "zero",
        activation: Activation = "gelu",
        dropout: Fraction = 0.0,
        time_scale: Positive = 1000.0,
        recompute: bool = False,
        *,
        grid: Grid,
        out_channels: int,
        cond: CondSpec,
        attention: Attention,
        positions,
    ):
        """Raises ValueError when the heads do not divide the width, or depth, heads, positions do not fit the plan."""
        looks, block = blocks_of(plan, depth), BLOCKS[plan_of(plan).arrangement]
        settings = dict(
            mlp_ratio=mlp_ratio,
            qk_norm=qk_norm,
            activation=activation,
            dropout=dropout,
            norm=norm,
            modulation=modulation,
        )
        reads = [bool(cond.tokens) and look != ("time",) for look in looks]
        blocks = [block(dim, num_heads, attention, reads=one, **settings) for one in reads]
        super().__init__(
            blocks, dim, time_scale, recompute, grid, out_channels, cond,
            head=AdaLNHead(dim, out_channels, norm),
            shared=SharedModulation(dim, block.vectors) if modulation == "single" else None,
            **({"text": nn.Linear(cond.tokens, dim)} if cond.tokens else {}),
        )  # fmt: skip
        self.attention, self.head_dim, self.looks, self.causal = attention, head_dim(dim, num_heads), looks, causal
        self.patterns = {look: patterns(tuple(window))[look] for look in plan_of(plan).looks}
        self.axes = {look: self._axes(pattern) for look, pattern in self.patterns.items()}
        self.positions = nn.ModuleDict(
            {axes: positions(dim=dim, head_dim=self.head_dim, grid=self.grid, axes=axes) for axes in self.axes.values()}
        )
        meetings = (Meeting(p, self.grid, 1, torch.device("meta"), causal) for p in self.patterns.values())
        self.masked = self.masked or any(meeting.mask is not None for meeting in meetings)

    def check(self, grid: Grid) -> None:
        """Raises ValueError for other channels, or for frames where the network was built for images."""
        super().check(grid)
        if self.grid.t == 1 < grid.t and any(p.axes == "thw" for p in self.patterns.values()):
            raise ValueError(
                f"the network was built for images (one latent frame) and tells no times apart; this is {grid}."
            )

    def walk(
        self,
        tokens: Tensor,
        c: Tensor,
        grid: Grid,
        coords: Tensor | None,
        text: Seen,
        mask: Tensor | None,
        images: int = 0,
    ) -> Tensor:
        """tokens (B,t,S,D) -> (B,t,S,D): the plan, block by block; positions are added before they are first needed.

        The last `images` frames are pictures of their own: temporal blocks and temporal positions pass them by.
        """
        if images and not all(len(looks) == 1 and self.axes[looks[0]] in ("t", "hw") for looks in self.looks):
            raise ValueError(
                "images beside a clip need a plan with temporal blocks: interleaved, late_fusion or axial."
            )
        clip = grid._replace(t=grid.t - images)
        places = {axes: Placing(self.positions[axes], axes, clip, tokens.device, coords) for axes in self.positions}
        meetings = {look: self._meeting(look, places, grid, clip, tokens) for look in self.patterns}
        still = set(places)
        for looks, block, told in zip(self.looks, self.blocks, self.told(text, mask), strict=True):
            frames = clip.t if self.axes[looks[0]] == "t" else grid.t
            seen, rest = tokens[:, :frames], tokens[:, frames:]
            for axes in [axes for axes in places if axes in still and axes in {self.axes[look] for look in looks}]:
                seen, still = places[axes].add(seen), still - {axes}
            seen = self.run(block, seen, c[:, :frames], *(meetings[look] for look in looks), *told)
            tokens = torch.cat([seen, rest], dim=1) if images else seen
        return tokens

    def _meeting(self, look: str, places: dict[str, Placing], grid: Grid, clip: Grid, tokens: Tensor) -> Meeting:
        """A look on this grid, with its mask and its rotation."""
        axes = self.axes[look]
        meeting = Meeting(self.patterns[look], clip if axes == "t" else grid, len(tokens), tokens.device, self.causal)
        return meeting.turn(places[axes].rotation, axes)

    def _axes(self, pattern: Pattern) -> str:
        return "hw" if pattern.axes == "thw" and self.grid.t == 1 else pattern.axes  # an image has no time axis
