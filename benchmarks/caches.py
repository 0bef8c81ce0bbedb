"""What caches save, and how wrong they are: the same videos drawn with and without them.

    python benchmarks/caches.py                     trains a small model first (minutes on a CPU)
    python benchmarks/caches.py --run runs/NAME     takes a trained one

For each setting: time and network evaluations beside none (interleaved, the shortest of several rounds), the error
that the cache reports of itself, and the true one, |video - video without| / |video without| of the same seeds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import zoo  # noqa: E402, F401
from vidiff.building import build_diffuser, plan  # noqa: E402
from vidiff.commands import train  # noqa: E402
from vidiff.config import load  # noqa: E402
from vidiff.engine.runs import find_checkpoint, read_run  # noqa: E402
from vidiff.engine.sample import conditions_of, draw  # noqa: E402
from vidiff.registry import build  # noqa: E402

SMALL = """\
name: caches
data: {name: moving_digits, size: 32, frames: 8, digits: 1}
tokenizer: {name: tubelet, size: [2, 4, 4]}
backbone: {name: dit_factorized, dim: 128, depth: 8, num_heads: 4}
conditioner: label
objective: rectified_flow
guidance: {name: cfg, scale: 3.0}
sampler: {name: euler, steps: 50}
train: {steps: %d, batch_size: 8}
optimizer: {lr: 1.0e-3}
schedule: {warmup_steps: 4}
log: {every: 100, tensorboard: false}
"""

SETTINGS = (
    "none",
    *({"name": "first_block", "threshold": t} for t in (0.02, 0.05, 0.1, 0.2)),
    *({"name": "teacache", "threshold": t} for t in (0.05, 0.1, 0.2, 0.4)),
    *({"name": "fora", "interval": k} for k in (2, 3, 5)),
)


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--run", help="a trained run (none: one is trained)")
    made.add_argument("--train-steps", type=int, default=300)
    made.add_argument("--num", type=int, default=4, help="videos, drawn at once")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("overrides", nargs="*", metavar="key=value", help="sampler.*, guidance.*")
    arguments = made.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments.run or trained(Path(folder), arguments.train_steps), arguments)


def trained(folder: Path, steps: int) -> str:
    """A small model of moving digits."""
    (folder / "caches.yaml").write_text(SMALL % steps)
    assert train.main([str(folder / "caches.yaml"), "--out", str(folder / "run"), "--device", "cpu"]) == 0
    return str(folder / "run")


def measure(run: str, arguments: argparse.Namespace) -> None:
    """Print the table of one run."""
    folder, _ = find_checkpoint(Path(run))
    made = plan(load(folder / "config.yaml", arguments.overrides), training=False)
    diffuser = build_diffuser(made.config, made.dataset)
    read_run(diffuser, run)
    rows = range(arguments.num)
    conditions = conditions_of(made, rows)
    seconds, drawings = {}, {}
    for _ in range(arguments.rounds):
        for i, node in enumerate(SETTINGS):
            drawn = draw(
                diffuser, made.grid, made.sampler, made.guidance, seed=0, rows=rows, conditions=conditions,
                batch_size=arguments.num, task=made.task, cache=build("cache", node),
            )  # fmt: skip
            seconds[i], drawings[i] = min(drawn.seconds, seconds.get(i, drawn.seconds)), drawn
    plain = drawings[0].video.float() - 127.5
    print(
        f"\n{made.config.name}: {made.sampler.steps} steps, {arguments.num} videos, best of {arguments.rounds} rounds"
    )
    print(
        "| cache | time / none | evaluations answered from the cache | its own error, mean (max) | error of the video |"
    )
    print("|---|---|---|---|---|")
    for i, node in enumerate(SETTINGS):
        kept, words = drawings[i].cache, node
        if node != "none":
            words = " ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in node.values())
        own = f"{kept['error_mean']:.3f} ({kept['error_max']:.3f})" if kept.get("checked") else "–"
        error = (drawings[i].video.float() - 127.5 - plain).norm() / plain.norm()
        share = f"{kept.get('saved', 0):.0%}"
        print(f"| `{words}` | {seconds[i] / seconds[0]:.2f} | {share} | {own} | {error:.3f} |")


if __name__ == "__main__":
    main()
