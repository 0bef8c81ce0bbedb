"""Does v-prediction need fewer evaluations? One small network a prediction, on data whose law is known.

    python benchmarks/few_evaluations.py [--seeds 3] [--steps 2000]

Networks of two hidden layers learn a mixture of three Gaussians in the plane on one path (cosine) with one weighting
of the error (min-SNR 5 of x0, which is the same loss behind every prediction), then are drawn from with 1 to 32
evaluations of `euler` (DDIM). Printed: the sliced Wasserstein distance to true draws, as a multiple of that between
two sets of true draws, mean and deviation over seeds. With the exact answer in the place of the network all
predictions draw the same samples (tests/test_matrix.py), so what differs here is what was learned.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import mean, pstdev

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import zoo  # noqa: E402, F401
from tests.oracle import three  # noqa: E402
from vidiff.diffusion.objective import Objective  # noqa: E402
from vidiff.diffusion.sampler import start  # noqa: E402
from vidiff.random import Random, generator  # noqa: E402
from vidiff.registry import build  # noqa: E402
from vidiff.types import Cond  # noqa: E402

PREDICTIONS = ("eps", "x0", "v", "velocity")
EVALUATIONS = (1, 2, 4, 8, 32)
BATCH, DRAWN, WIDTH, RATE = 256, 4096, 128, 3e-3
MIXTURE = three(2)


class TwoLayers(nn.Module):
    """x (B,2,1,1,1) and its time through two hidden layers."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(11, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 2)
        )

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        waves = [f(k * label) for k in (1, 2, 4, 8) for f in (torch.sin, torch.cos)]
        return self.net(torch.cat([x.flatten(1), torch.stack([*waves, label], 1)], 1)).reshape(x.shape)


def objective(prediction: str) -> Objective:
    """The same loss behind every prediction; eps has no answer at the very end of the path."""
    parts = {"path": "cosine", "prediction": prediction, "weighting": "min_snr", "interval": [0.0, 0.98]}
    return build("objective", {"name": "v_prediction", **parts})


def trained(o: Objective, steps: int, seed: int) -> nn.Module:
    """A network after `steps` steps of AdamW."""
    torch.manual_seed(seed)
    net = TwoLayers()
    optimizer = torch.optim.AdamW(net.parameters(), betas=(0.9, 0.99), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 50) * (1 - step / steps)
        x0 = MIXTURE.sample(BATCH, 1_000_000 * seed + step).float().reshape(BATCH, 2, 1, 1, 1)
        dice = generator(seed, "dice", step)
        t = o.times.quantile(torch.rand(BATCH, generator=dice, dtype=torch.float64).clamp(1e-9), o.path, o.interval)
        optimizer.zero_grad()
        o.loss_at(net, x0, torch.randn(x0.shape, generator=dice), t, Cond())["loss"].backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def drawn(o: Objective, net: nn.Module, evaluations: int, seed: int) -> Tensor:
    """(DRAWN,2) samples."""
    sampler = build("sampler", {"name": "euler", "steps": evaluations})
    times = sampler.spacing(evaluations, o.path, o.interval)
    noise = torch.randn(DRAWN, 2, 1, 1, 1, generator=generator(seed, "noise"))
    random = Random(seed, "draw", rows=range(DRAWN))
    x = sampler(lambda x, t: o.estimate(net, x, t, Cond()), start(o.path, noise, times[0]), times, o.path, random)
    return x.flatten(1)


def distance(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein over 64 fixed directions."""
    angle = torch.arange(64) * torch.pi / 64
    directions = torch.stack([angle.cos(), angle.sin()])
    return ((a @ directions).sort(0).values - (b @ directions).sort(0).values).abs().mean().item()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    said = parser.parse_args()
    truth = [MIXTURE.sample(DRAWN, -1 - i).float() for i in range(2)]
    unit = distance(*truth)
    print(f"{'prediction':<12}" + "".join(f"{n:>14}" for n in EVALUATIONS) + "   evaluations")
    for prediction in PREDICTIONS:
        o, found = objective(prediction), {n: [] for n in EVALUATIONS}
        for seed in range(said.seeds):
            net = trained(o, said.steps, seed)
            for n in EVALUATIONS:
                found[n].append(distance(drawn(o, net, n, seed), truth[0]) / unit)
        print(f"{prediction:<12}" + "".join(f"{mean(v):>8.1f} ± {pstdev(v):<3.1f}" for v in found.values()), flush=True)


if __name__ == "__main__":
    main()
