"""Video looks at text by cross-attention; one adaLN for all blocks. The shapes of LTX, Wan, PixArt and Latte-T2V.

HaCohen et al. 2024, LTX-Video (2501.00103), sec. 3.2: RMSNorm, qk-norm across heads.
Wan team 2025 (2503.20314), sec. 4.2: LayerNorm before the cross-attention, qk-norm across heads.
Chen et al. 2023, PixArt-alpha (2310.00426), sec. 2.3: adaLN-single, on which all of them stand.
Ma et al. 2024, Latte (2401.03048): blocks that alternate between space, with text, and time, without.
Blocks are x + gate attn, x + cross(x, text), x + gate mlp. Without text they are the first and the third.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

from torch import Tensor, nn

from vidiff.registry import BACKBONES
from vidiff.types import Attention, Cond, CondSpec, Count, Depth, Fraction, Grid, Positive
from zoo.layers.adaln import Over, SharedModulation
from zoo.layers.adaln_single import SingleBlock, SingleHead
from zoo.layers.attention import head_dim
from zoo.layers.embeddings import TimeEmbedding
from zoo.layers.mlp import Activation
from zoo.layers.norms import EPS, Norm, QKNorm
from zoo.layers.text import CaptionProjection, PictureProjection, Seen, TextTransformer
from zoo.layers.transformer import Placing

Layout = Literal["joint", "factorized", "space"]

PLANS: dict[Layout, tuple[Over, ...]] = {"joint": ("joint",), "factorized": ("space", "time"), "space": ("space",)}
"""What the blocks attend over, in turn."""

AXES: dict[Over, str] = {"joint": "thw", "space": "hw", "time": "t"}


def plan(layout: Layout, depth: int) -> list[Over]:
    """What each of `depth` blocks attends over. Raises ValueError when they do not come out even."""
    cycle = PLANS[layout]
    if depth % len(cycle):
        raise ValueError(f"depth={depth} does not split into spatial and temporal blocks. Use depth={depth + 1}.")
    return list(cycle) * (depth // len(cycle))


@BACKBONES.register("dit_cross", tiny=dict(dim=48, depth=2, num_heads=2))
class DiTCross(TextTransformer):
    """A diffusion transformer that reads text by cross-attention, with adaLN-single (LTX, Wan, PixArt, Latte-T2V).

    x (B,c,t,h,w), time (B,) or (B,t), cond.vector (B,dim), cond.tokens (B,L,K) -> (B,out_channels,t,h,w).
    `layout`: all tokens together, space and time in turn (the temporal blocks do not see the text), or frames
    on their own. Beside the text it looks at the tokens of a picture, cond.image (B,M,K). `cross_norm`: a
    LayerNorm with weights before the text. `frequencies` of the time's sinusoid.
    """

    uses = TextTransformer.uses | {"image"}

    def __init__(
        self,
        dim: Count = 384,
        depth: Depth = 12,
        num_heads: Count = 6,
        layout: Layout = "joint",
        mlp_ratio: Positive = 4.0,
        norm: Norm = "layer",
        qk_norm: QKNorm = "rms",
        qk_eps: Positive = EPS,
        cross_norm: bool = False,
        activation: Activation = "gelu",
        dropout: Fraction = 0.0,
        frequencies: Count = 256,
        time_scale: Positive = 1000.0,
        recompute: bool = False,
        *,
        grid: Grid,
        out_channels: int,
        cond: CondSpec,
        attention: Attention,
        positions,
    ):
        """Raises ValueError when the heads do not divide the width, the depth is odd, or positions do not fit."""
        overs, image = plan(layout, depth), bool(cond.image)
        if image and not cond.tokens:
            raise ValueError(
                "it looks at a picture beside a text, and the condition has no text. Use conditioner several with both."
            )
        blocks = [
            SingleBlock(
                dim, num_heads, attention, over, bool(cond.tokens) and over != "time", image,
                mlp_ratio, norm, qk_norm, qk_eps, cross_norm, activation, dropout,
            )
            for over in overs
        ]  # fmt: skip
        super().__init__(
            blocks, dim, time_scale, recompute, grid, out_channels, cond,
            time=TimeEmbedding(dim, time_scale, frequencies),
            head=SingleHead(dim, out_channels),
            adaln=SharedModulation(dim, 6),
            **({"text": CaptionProjection(cond.tokens, dim)} if cond.tokens else {}),
            **({"image": PictureProjection(cond.image, dim)} if image else {}),
        )  # fmt: skip
        self.attention, self.head_dim, self.plan = attention, head_dim(dim, num_heads), overs
        self.sees = cond.image
        self.axes = {over: AXES[over] for over in PLANS[layout]}  # an image is a clip of one frame, as in LTX and Wan
        self.positions = nn.ModuleDict(
            {o: positions(dim=dim, head_dim=self.head_dim, grid=self.grid, axes=axes) for o, axes in self.axes.items()}
        )

    def beside(self, cond: Cond) -> dict[str, Tensor | None]:
        """The text, its mask and the picture. Raises ValueError for a picture of another width, or none."""
        given = 0 if cond.image is None else cond.image.shape[-1]
        if given != self.sees:
            raise ValueError(f"the network was built for picture tokens {self.sees} wide, and these are {given} wide.")
        if cond.prepared:
            self.read(cond)  # refuses what does not fit
            half = len(cond.prepared) // (2 if given else 1)
            return {"text": cond.prepared[:half], "mask": cond.mask, "image": cond.prepared[half:]}
        image = None if cond.image is None else self.image(cond.image).to(self.embed.weight.dtype)
        return {**super().beside(cond), "image": image}

    def prepare(self, cond: Cond) -> Cond:
        """Keys and values to look at: of the text (B,L,2D) block by block, then of the picture (B,M,2D)."""
        told = self.beside(replace(cond, prepared=None))
        looks = self.readers()
        text = [look.kv(told["text"]) for look in looks]
        image = [look.kv_image(told["image"]) for look in looks if told["image"] is not None]
        return replace(cond, prepared=(*text, *image)) if looks else cond

    def walk(
        self, tokens: Tensor, c: Tensor, grid: Grid, coords: Tensor | None, text: Seen, mask: Tensor | None, image: Seen
    ) -> Tensor:
        """tokens (B,t,S,D) -> (B,t,S,D): the plan, block by block."""
        places = {o: Placing(self.positions[o], axes, grid, tokens.device, coords) for o, axes in self.axes.items()}
        shared, ready = self.adaln(c).unflatten(-1, (6, -1)), isinstance(text, tuple)
        texts, images = (iter(seen) if ready else itertools.repeat(seen) for seen in (text, image))
        for i, (over, block) in enumerate(zip(self.plan, self.blocks, strict=True)):
            alone = over == "time" and grid.t == 1  # a frame alone has no place in time
            if i == self.plan.index(over) and not alone:
                tokens = places[over].add(tokens)
            seen = (next(texts), mask, next(images, None), ready) if block.cross is not None else (None, None)
            tokens = self.run(block, tokens, shared, places[over].rotation, *seen)
        return tokens
