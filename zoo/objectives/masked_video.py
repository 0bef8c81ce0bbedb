"""Masked video: Voleti et al. 2022, MCVD (2205.09853), sec. 3.2; Höppe et al. 2022, RaMViD (2206.07696), sec. 3.1.

For every clip some latent frames are known and the loss is that of the others,

    loss = mean over clips of  (1 / #unknown) sum over unknown elements of  w(t) (y - p x0 - q noise)^2,

so one network predicts (prefix), looks back (suffix), fills in (interpolation, random frames) and generates (none).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vidiff.diffusion.estimate import Prediction
from vidiff.diffusion.noise import Noise
from vidiff.diffusion.objective import PARTS, Net, Objective, full_precision, per_time
from vidiff.diffusion.path import Path
from vidiff.diffusion.times import Interval, Times, open_uniform
from vidiff.diffusion.weighting import Weighting
from vidiff.random import Random
from vidiff.registry import OBJECTIVES
from vidiff.types import Cond, Grid, NonNegative


@OBJECTIVES.register("masked_video", parts=PARTS)
class MaskedVideo(Objective):
    """The velocity of the straight path, on unknown frames only; shares say how often which frames are known.

    `route` clean: known frames enter clean, at time 0 (RaMViD). `route` channels: all frames are noised and known ones
    lie beside them, which is the business of conditioner `frames` (MCVD); it is told batch["known"] (B,t).
    """

    def __init__(
        self,
        path: Path | str = "linear",
        prediction: Prediction | str = "velocity",
        weighting: Weighting | str = "uniform",
        times: Times | str = "uniform",
        noise: Noise | str = "gaussian",
        interval: Interval = (0.0, 1.0),
        route: Literal["clean", "channels"] = "clean",
        prefix: NonNegative = 0.4,
        suffix: NonNegative = 0.1,
        ends: NonNegative = 0.2,
        random: NonNegative = 0.1,
        none: NonNegative = 0.2,
        *,
        grid: Grid | None = None,
    ):
        """Raises ValueError when no share is above 0, or the latent has too few frames to know some and draw others."""
        super().__init__(path, prediction, weighting, times, noise, interval)
        self.route, self.shares = route, (prefix, suffix, ends, random, none)
        if sum(self.shares) == 0:
            raise ValueError("prefix, suffix, ends, random and none are all 0: one of them must be above.")
        need = 3 if ends else 2 if sum(self.shares) > none else 1
        if grid is not None and grid.t < need:
            raise ValueError(f"the latent has {grid.t} frames, masks need {need}. Use more frames, or ends: 0.")

    @property
    def framewise(self) -> bool:
        return self.route == "clean"

    def check(self, net: nn.Module, reads: frozenset[str]) -> None:
        """Raises ValueError when known frames are to come as channels and no conditioner brings them."""
        if self.route == "channels" and "latent" not in reads:
            raise ValueError("route=channels: nothing shows known frames. Use conditioner: frames, or route: clean.")

    def entries(self, x0: Tensor, random: Random) -> dict[str, Tensor]:
        """{"known": (B,t) bool}."""
        return {"known": self.draw(random, x0.shape[2]).to(x0.device)}

    def draw(self, random: Random, frames: int) -> Tensor:
        """Known frames (B,frames): a mode by its share, then uniform numbers of frames; one at least is unknown."""
        u = open_uniform(random, 3 + frames)
        cell = torch.arange(frames, device=u.device)
        bounds = torch.tensor(self.shares, dtype=u.dtype, device=u.device).cumsum(0)
        mode = torch.searchsorted(bounds, u[:, 0] * bounds[-1], right=True)
        long = 1 + (u[:, 1] * (frames - 1)).long()[:, None]  # 1 to frames - 1
        first = 1 + (u[:, 1] * (frames - 2)).long()[:, None]  # 1 to frames - 2, and what they leave for the last ones
        last = 1 + (u[:, 2:3] * (frames - 1 - first)).long()
        some = (u[:, 3:] < u[:, 1:2]) & (cell != (u[:, 2:3] * frames).long())
        masks = [cell < long, cell >= frames - long, (cell < first) | (cell >= frames - last), some]
        masks = torch.stack([*masks, torch.zeros_like(some)], dim=1)  # (B,modes,frames)
        return masks[torch.arange(len(u), device=u.device), mode]

    def loss(self, net: Net, x0: Tensor, cond: Cond, random: Random) -> dict[str, Tensor]:
        """As every objective's, over unknown frames; "mse" and "time" are theirs, too.

        Known are those of the batch that `cond` was made from, or frames drawn here.
        """
        told = cond.origin.batch if cond.origin else self.entries(x0, random)
        drawn = self.draw_times(random, x0)
        noise = self.draw_noise(random, x0)
        return self.loss_of_unknown(net, x0, noise, drawn, cond, told["known"])

    def loss_of_unknown(
        self, net: Net, x0: Tensor, noise: Tensor, t: Tensor, cond: Cond, known: Tensor
    ) -> dict[str, Tensor]:
        """`loss` without its dice: t (B,) or (B,t), known (B,t) bool."""
        x0 = x0.to(full_precision(x0.dtype))
        t = t if t.ndim == 2 else t[:, None].expand(known.shape)
        told = t.masked_fill(known, 0.0) if self.route == "clean" else t
        output = self.output(net, self.path.point(x0, noise, told), told, cond)
        target = self.prediction.target(self.path, x0, noise, t).detach()
        mse = per_time((output - target) ** 2, t)
        return {
            "loss": over(self.penalty(output - target, t), ~known).mean(),
            "mse": over(mse, ~known).detach(),
            "time": over(t, ~known).detach(),
        }


def over(values: Tensor, chosen: Tensor) -> Tensor:
    """The mean of values (B,t) over the chosen ones (B,t) of each row -> (B,)."""
    return values.where(chosen, 0.0).sum(1) / chosen.sum(1)
