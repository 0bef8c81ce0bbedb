"""The contracts: what the kinds of components promise each other.

Axes: B batch, C channels, T frames, H W; `c t h w` the latent grid; N = t*h*w tokens;
D width; L text length; S steps. Video is `B C T H W` everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor


# ---- settings with a range: what a YAML value must satisfy ----


@dataclass(frozen=True)
class Range:
    """Closed bounds of a number in a YAML file; `above` is an open lower bound."""

    min: float | None = None
    max: float | None = None
    above: float | None = None

    def refuses(self, value: float) -> str | None:
        """What the value should have been, or None when it is inside."""
        if self.above is not None and not value > self.above:
            return f"above {self.above:g}"
        if self.min is not None and not value >= self.min:
            return f"at least {self.min:g}"
        if self.max is not None and not value <= self.max:
            return f"at most {self.max:g}"
        return None


Count = Annotated[int, Range(min=1)]
Depth = Annotated[int, Range(min=1, max=1000)]
Natural = Annotated[int, Range(min=0)]
Fraction = Annotated[float, Range(min=0.0, max=1.0)]
Positive = Annotated[float, Range(above=0.0)]
NonNegative = Annotated[float, Range(min=0.0)]


@dataclass(frozen=True)
class Saved:
    """A text that names what a training run left behind."""

    def refuses(self, value: str) -> str | None:
        """What the value should have been; whether the folder is there, the builder sees."""
        return None if value.strip() else str(self)

    def __str__(self) -> str:
        return "the folder of a run (runs/NAME), or of one of its checkpoints"


Run = Annotated[str, Saved()]
"""The name of another run whose model a component needs: a teacher, a weaker self. The wiring `load` opens it."""


# ---- what travels between components ----


class Grid(NamedTuple):
    """The shape of a latent: channels, frames, height, width (without the batch)."""

    c: int
    t: int
    h: int
    w: int

    def __str__(self) -> str:
        return f"{self.c}x{self.t}x{self.h}x{self.w}"


@dataclass(frozen=True)
class CondSpec:
    """What a conditioner provides: widths, or 0 where it provides nothing of the sort.

    `masked` False says that its tokens never come with a mask, so that an attention without masks can look at them.
    """

    vector: int = 0
    tokens: int = 0
    length: int = 0
    channels: int = 0
    coords: int = 0
    image: int = 0
    masked: bool = True

    @property
    def provides(self) -> frozenset[str]:
        """The routes in use, a subset of {'vector', 'tokens', 'channels', 'coords', 'image'}."""
        return frozenset(r for r in ("vector", "tokens", "channels", "coords", "image") if getattr(self, r))


@dataclass(frozen=True)
class Cond:
    """The condition of a batch.

    Shapes: vector (B,V), tokens (B,L,D) with mask (B,L) True = keep, channels (B,k,t,h,w), coords (B,N,k),
    image (B,M,K), the tokens of a picture beside those of a text.
    """

    vector: Tensor | None = None
    tokens: Tensor | None = None
    mask: Tensor | None = None
    channels: Tensor | None = None
    coords: Tensor | None = None
    image: Tensor | None = None
    prepared: tuple[Tensor, ...] | None = None
    """What one network made of tokens and image once for all x_t and times (its `prepare`), batch first."""
    origin: Origin | None = None
    """What it was made from, for a second model that has to make a condition of its own; put there by the Diffuser."""
    without: Cond | None = None
    """The condition with everything dropped, for an objective that compares with it; put there by the Diffuser."""


@dataclass(frozen=True)
class Origin:
    """The batch a condition was made from, and which samples lost it (B,) or (B,k)."""

    batch: Batch
    drop: Tensor

    @property
    def dropped(self) -> Tensor:
        """Which samples lost all there was (B,)."""
        return self.drop if self.drop.ndim == 1 else self.drop[:, -1] | self.drop[:, :-1].all(1)


BESIDE = ("prepared", "origin", "without")
"""What a condition has beside its routes."""


def join(conds: Sequence[Cond]) -> Cond:
    """Several conditions as one batch, in order: one call of the network for all of them."""
    import torch

    names = [f.name for f in fields(Cond) if f.name not in BESIDE]
    columns = {name: [getattr(c, name) for c in conds] for name in names}
    joined = {name: torch.cat(parts) if parts[0] is not None else None for name, parts in columns.items()}
    ready = [c.prepared for c in conds]
    together = None if None in ready else tuple(torch.cat(parts) for parts in zip(*ready, strict=True))
    return Cond(**joined, prepared=together)


def rows_of(cond: Cond, rows: Tensor) -> Cond:
    """The condition of these rows (k,) of a batch alone."""
    columns = {f.name: getattr(cond, f.name) for f in fields(Cond) if f.name not in BESIDE}
    without = None if cond.without is None else rows_of(cond.without, rows)
    ready = None if cond.prepared is None else tuple(part[rows] for part in cond.prepared)
    return Cond(**{name: None if part is None else part[rows] for name, part in columns.items()}, prepared=ready,
                without=without)  # fmt: skip


@dataclass(frozen=True)
class Description:
    """What a published checkpoint is: nodes of a YAML file, the latent's grid, the width of the network's answer."""

    nodes: dict[str, Any]
    grid: Grid
    out_channels: int
    num_classes: int = 0


Batch = Mapping[str, Any]
"""What a dataset's items are collated to: "video" uint8 (B,C,T,H,W), "label" (B,), "text" list, "fps" (B,)…

Entries that some conditioners read: "motion" (B,), "size" (B,2) height and width, "known" (B,t) bool latent frames,
"camera" (B,T,3,4) camera to world and "intrinsics" (B,4) fx fy cx cy in shares of width and height.
"""


class BadSample(ValueError):
    """A sample that cannot be had (an undecodable video): skipped, counted and named, never fatal by itself."""

    def __init__(self, path: object, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return (BadSample, (self.path, self.reason))


# ---- the contracts ----


class Tokenizer(Protocol):
    """Video to latents and back. `frozen` ones have no trainable parameters."""

    frozen: bool

    def latent_shape(self, video_shape: tuple[int, int, int, int]) -> Grid:
        """(C,T,H,W) -> (c,t,h,w). Raises ValueError with the numbers when the video does not fit."""

    def encode(self, video: Tensor) -> Tensor:
        """video (B,C,T,H,W) in [-1,1] -> z (B,c,t,h,w) of about unit standard deviation."""

    def decode(self, z: Tensor) -> Tensor:
        """z (B,c,t,h,w) -> video (B,C,T,H,W), about [-1,1], not clamped."""


class Conditioner(Protocol):
    """Batch entries to what a backbone understands.

    `reads` names the entries it needs; "latent" (B,c,t,h,w) the Diffuser puts there, encoded from the video.
    May be absent: `also`, entries it takes where there are any; `entries`, the shapes of those nobody could guess.
    `drop` is the probability that a training sample loses its condition, or one each for several of them.
    """

    spec: CondSpec
    reads: frozenset[str]
    drop: float | tuple[float, ...]

    def __call__(self, batch: Batch, drop: Tensor) -> Cond:
        """drop (B,) bool, True = replace this sample's condition by the null condition.

        With a tuple of probabilities also (B,len(drop)), a column for each; (B,) then drops all of them.
        """


class Backbone(Protocol):
    """The network. `uses` names the routes of a condition it takes in, `needs` (may be absent) those it must have.

    `prepare(cond) -> cond` (may be absent) puts into `cond.prepared` what no x_t and no time changes, such as a text's
    keys and values: asked once per sampling run. With it or without, the answers have the same bits.
    `exact` True (may be absent) says that it is no network but the answer for data of a known law, on their grid.
    """

    uses: frozenset[str]
    zero_init: bool
    blocks: Any

    def __call__(self, x: Tensor, time: Tensor, cond: Cond) -> Tensor:
        """x (B,c,t,h,w), time (B,) or (B,t) as the prediction's label -> (B,out_channels,t,h,w)."""

    def check(self, grid: Grid) -> None:
        """Raises ValueError for a grid this network cannot take."""


class Attention(Protocol):
    """Scaled dot-product attention by one named implementation; never falls back in silence.

    One that leaves out pairs by itself (a window) says which: seen(N, M, device) -> mask (N,M), True = looked at.
    `forward_mode` True (may be absent) says that torch.func.jvp can go through it.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """q (B,heads,N,Dh), k v (B,heads,M,Dh), mask broadcastable to (B,heads,N,M), True = keep -> (B,heads,N,Dh)."""

    def refuses(self, device: str, dtype: Any, head_dim: int, masked: bool) -> str | None:
        """Why this implementation cannot do it, or None when it can."""


class Positions(Protocol):
    """Where tokens are. Everything is computed from coordinates at forward time, nothing is stored by size.

    coords (*sizes,axes) are the indices of a grid's cells along the axes asked for ("thw", "hw" or "t");
    their shape tells the grid, on every device and without looking at numbers.

    With `base_fps` (may be absent, or None) frames are placed by the clock: a frame later is base_fps / fps along t,
    each clip with its own rate, and coords are (B,*sizes,axes), answers likewise.
    """

    def added(self, coords: Tensor) -> Tensor | None:
        """coords (*sizes,axes) -> (*sizes,D) to add to the tokens, or None."""

    def rotation(self, coords: Tensor) -> tuple[Tensor, Tensor] | None:
        """coords (*sizes,axes) -> cos, sin to rotate queries and keys by, or None.

        (*sizes,Dh) for all heads alike, or (*sizes,D), each head in its own way.
        """


class Dataset(Protocol):
    """Clips by number. `[i]` is a function of (seed, i) only.

    It is defined for every i >= 0: `i % len` is the item, `i // len` the time it is seen
    (another crop, another flip; synthetic data are fresh), so epochs need no state.

    Clips of several shapes: `shapes` (may be absent) are all of them, `shape` the one that samples are drawn in, and
    `shape_of(i)` is that of clip i, known from its item alone. It raises BadSample for a clip that has no place.
    Data drawn from a mixture of Gaussians have it as `law` (may be absent), and clips of float32.
    """

    shape: tuple[int, int, int, int]
    num_classes: int

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, Any]:
        """{"video": uint8 (C,T,H,W), "label": int, "text": str, "fps": float …}. Raises BadSample."""


@dataclass(frozen=True)
class Outline:
    """What the settings of a data set alone promise of its clips, where its files are not at hand.

    A data set that reads files may say it: outline(**settings) -> Outline, a static method, or None where there are
    files or they alone tell. It is for counting what a network costs; its one clip is black.
    """

    shape: tuple[int, int, int, int]
    fps: float = 8.0
    shapes: tuple[tuple[int, int, int, int], ...] = ()
    num_classes: int = 0

    def __len__(self) -> int:
        return 1

    def __getitem__(self, i: int) -> dict[str, Any]:
        """{"video": uint8 (C,T,H,W), "fps"}; with classes "label"."""
        import torch

        label = {"label": 0} if self.num_classes else {}
        return {"video": torch.zeros(self.shape, dtype=torch.uint8, device="cpu"), "fps": self.fps, **label}


def shapes_of(dataset: Dataset) -> list[tuple[int, int, int, int]]:
    """All shapes (C,T,H,W) of a data set's clips, `dataset.shape` first."""
    return list(dict.fromkeys(tuple(shape) for shape in (dataset.shape, *getattr(dataset, "shapes", ()))))


class Encoder(Protocol):
    """A frozen view of a clean video; it belongs in no checkpoint."""

    dim: int

    def __call__(self, video: Tensor) -> Tensor:
        """video (B,C,T,H,W) in [-1,1] -> features (B,dim,t,h,w), without a gradient."""


class Metric(Protocol):
    """A number about samples, with the protocol it was measured under, which JSON can hold."""

    protocol: dict[str, Any]

    def update(self, real: Tensor, fake: Tensor) -> None:
        """Take in real and drawn videos, uint8 (B,C,T,H,W), which stay as they are."""

    def compute(self) -> dict[str, float]:
        """{name: plain number} of all that was shown, whatever the batches. Raises ValueError of nothing shown."""


VELOCITY = frozenset({"velocity"})
"""What an ordinary estimate tells: the belief at its time, from which dx/dt follows."""


class Frozen(Protocol):
    """The model of another run with its averaged weights: asked, never trained, no submodule of who holds it.

    `objective` is what it was trained for. The weights are read when it is asked first.
    """

    run: str
    objective: Any

    def check_steps(self, asks: frozenset[str], begins: Tensor, ends: Tensor) -> None:
        """Raises ValueError for steps (S,) that a sampler which `asks` this takes and the model was not trained for."""

    def estimator(self, cond: Cond, guidance: Any = None) -> Callable[[Tensor, Tensor], Any]:
        """Its estimate as a function of (x_t, t), x_t on the path of *this* configuration.

        It makes a condition of its own from what `cond` was made from (`cond.origin`).
        """


class Load(Protocol):
    """The wiring that opens a `Run`."""

    def __call__(self, run: str, asks: frozenset[str] = VELOCITY) -> Frozen:
        """`asks`: what its estimates are taken for; the run's objective must tell one of these (`Objective.tells`).

        Raises ValueError for a run that is not there, has other latents or tells something else.
        """


class Callback(Protocol):
    """Anything periodic: called after every `every`-th optimizer step."""

    every: int

    def __call__(self, trainer: Any) -> None: ...


class Converter(Protocol):
    """Checkpoints of one published system to our components and back: functions of state dicts, nothing kept.

    The constructor's settings are what weights do not tell (num_heads, num_classes …), all with a default.
    `keys` are in every checkpoint of the family, and tell it.
    """

    keys: tuple[str, ...]

    def describe(self, state: Mapping[str, Tensor]) -> Description:
        """Which components, of which sizes. Raises ValueError for what nobody says."""

    def from_official(self, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Official state dict -> {"backbone": state dict, "conditioner": state dict} and, where the network does not
        use all of it, "aside": tensors that go back as they are. Raises ValueError."""

    def to_official(self, parts: Mapping[str, Any], description: Description) -> dict[str, Tensor]:
        """The inverse: {"backbone", "conditioner"} of the components described -> official state dict."""
