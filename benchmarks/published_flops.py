"""Published parameters and costs beside ours, from YAML alone, each in the convention its source uses.

    python benchmarks/published_flops.py [--only latte]

Counts of the official codes: tests/parity/data/tables. Exit code 1 when a parameter count differs, or a cost
by more than the difference this page explains.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import zoo  # noqa: E402, F401
from vidiff.building import plan  # noqa: E402
from vidiff.config import load  # noqa: E402
from vidiff.engine.profile import Cost, cost  # noqa: E402

TABLES = ROOT / "tests" / "parity" / "data" / "tables"

MACS = "multiply-adds, one sample"
FLOPS = "FLOPs (2 per multiply-add), one sample"
LATTE_PAPER = "thop: multiply-adds without attention's products, with LayerNorms, three videos"


@dataclass
class Entry:
    """A published network, the YAML that is the same network here, and its published numbers."""

    name: str
    tree: dict[str, Any]
    parameters: int
    published: float
    convention: str
    repeated: float = 0.0
    """Multiply-adds that the official code does and ours does not: modulation once per token or frame."""

    def ours(self, counted: Cost) -> float:
        """Our count in their convention, what they repeat added."""
        if self.convention == FLOPS:
            return counted.forward_flops + 2 * self.repeated
        if self.convention == LATTE_PAPER:
            return 3 * (counted.forward_macs - counted.by_kind()["attention"][1] / 2 + self.repeated)
        return counted.forward_macs + self.repeated


def count(tree: dict[str, Any]) -> Cost:
    """The cost of a configuration that stands in no file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "published.yaml"
        file.write_text(yaml.safe_dump(tree))
        return cost(plan(load(file)))


def entries() -> list[Entry]:
    """Everything that was published and that a YAML can say."""
    return [*images(), *latte(), *nano_sora(), *latte_text()]


def sized(size: str, backbone: str, patch: int, shape: list[int], classes: int, **nodes: Any) -> dict[str, Any]:
    """A network of size S, B, L or XL on the latents of a stand-in."""
    return {
        "base": str(ROOT / "projects" / "_base" / f"{size}.yaml"),
        "data": {"name": "stand_in", "shape": shape, "num_classes": classes},
        "tokenizer": {"name": "frame_patch", "size": patch},
        "backbone": {"name": backbone, "activation": "gelu_tanh"},
        "conditioner": "label" if classes else "none",
        "objective": "iddpm",
        **nodes,
    }


def images() -> list[Entry]:
    """DiT (2212.09748, table 4) and SiT (2401.08740): images of 256 and 512, latents of 32 and 64."""
    found, table = [], _table("params_flops")
    for family in ("dit_256", "sit_256"):
        for name, entry in table[family].items():
            size, patch = name.split("/")
            tree = sized(size, "dit_joint", int(patch), [4, 1, 32, 32], 1000)
            label = f"{family.split('_')[0]}-{name}"
            params, macs = entry["params_without_frozen_pos_embed"], 1e9 * entry["gmacs_torch"]
            found.append(Entry(label, tree, params, macs, MACS))
    entry = table["dit_512"]["XL/2"]
    tree, table_512 = sized("XL", "dit_joint", 2, [4, 1, 64, 64], 1000), 32 * 32 * 1152
    found.append(Entry("dit-XL/2 512px", tree, entry["params_total"] - table_512, 1e9 * entry["gmacs_torch"], MACS))
    return found


def latte() -> list[Entry]:
    """Latte (2401.03048), variant 1: 16 frames of 256. Theirs modulates per frame or place, ours once per clip."""
    found = []
    for name, entry in _table("params_flops")["latte_256"].items():
        label, _, extras = name.partition(" extras=")
        size, patch = label.split("/")
        tree = sized(size, "dit_factorized", int(patch), [4, 16, 32, 32], 101 if extras == "2" else 0)
        dim, depth = (yaml.safe_load(Path(tree["base"]).read_text())["backbone"][k] for k in ("dim", "depth"))
        places, one = (32 // int(patch)) ** 2, dim * dim
        repeated = depth // 2 * 6 * one * (16 - 1 + places - 1) + 2 * one * (16 - 1)
        params = entry["params_without_frozen_pos_embeds"]
        classes = " with classes" if extras == "2" else ""
        found.append(Entry(f"latte-{label}{classes}", tree, params, 1e9 * entry["gmacs_torch_1_video"], MACS, repeated))
        if "thop_gmacs_batch3 (as in models/latte.py __main__)" in entry:
            thop = 1e9 * entry["thop_gmacs_batch3 (as in models/latte.py __main__)"]
            norms = 2 * 16 * places * dim * (2 * depth + 1)  # thop counts two for every number of a LayerNorm
            found.append(Entry(f"latte-{label}{classes} (paper)", tree, params, thop, LATTE_PAPER, repeated + norms))
    return found


def nano_sora() -> list[Entry]:
    """Nano-Sora: 16 frames of 64 in tubelets of 2x8x8."""
    found = []
    for name, entry in _table("params_flops_other").items():
        if name.startswith("Nano-Sora"):
            said = entry["kwargs"]
            backbone = {
                "name": "dit_joint", "dim": said["hidden_size"], "depth": said["depth"],
                "num_heads": said["num_heads"], "activation": "gelu_tanh",
            }  # fmt: skip
            tree = {
                "data": {"name": "stand_in", "shape": [1, *said["input_size"]]},
                "tokenizer": {"name": "tubelet", "size": said["patch_size"]},
                "backbone": backbone,
                "positions": "learned",
            }
            found.append(Entry(name, tree, entry["params"], entry["flops_torch_flop_counter(2xMAC)"], FLOPS))
    return found


def latte_text() -> list[Entry]:
    """Latte-1, text to video, 16 frames of 512: diffusers repeats the text and the modulation for every frame."""
    name, entry = next((n, e) for n, e in _table("params_flops_other").items() if n.startswith("Latte-1"))
    d, frames, words, width = 1152, 16, 120, 4096
    tree = {
        "data": {"name": "stand_in", "shape": [4, frames, 64, 64], "texts": [words, width]},
        "tokenizer": {"name": "frame_patch", "size": 2},
        "backbone": {"name": "dit_cross", "dim": d, "depth": 56, "num_heads": 16, "layout": "factorized",
                     "activation": "gelu_tanh", "qk_norm": "none"},
        "conditioner": {"name": "text_embeddings", "dim": width, "length": words},
        "objective": "iddpm",
    }  # fmt: skip
    repeated = 28 * (frames - 1) * words * 2 * d * d  # keys and values of the text, once per frame and block
    return [Entry(name.split(" (")[0], tree, entry["params"], 1e9 * entry["gmacs"], MACS, repeated)]


def report(found: list[Entry]) -> bool:
    """Print the table; whether everything agrees."""
    print(
        f"{'network':<34} {'parameters':>13} {'ours':>13}  "
        f"{'published G':>12} {'ours G':>12} {'repeated G':>10}  convention"
    )
    good = True
    for entry in found:
        counted = count(entry.tree)
        ours = entry.ours(counted)
        agree = counted.parameters == entry.parameters and abs(ours - entry.published) <= 1e-6 * entry.published
        good &= agree
        print(
            f"{entry.name:<34} {entry.parameters:>13,} {counted.parameters:>13,}  {entry.published / 1e9:>12.3f} "
            f"{ours / 1e9:>12.3f} {entry.repeated / 1e9:>10.3f}  {entry.convention}{'' if agree else '   DIFFERS'}"
        )
    print(
        "\nrepeated: multiply-adds of one sample that the official code does again for every frame or place and ours\n"
        "does once; added to ours for the comparison. Position tables that are not learned are left out.\n"
        "'Gflops' of the DiT paper are multiply-adds; the 5,572 G of the Latte paper are three videos, without the\n"
        "products of attention and with two for every number of a LayerNorm (thop on a batch of 3)."
    )
    return good


def _table(name: str) -> dict[str, Any]:
    return json.loads((TABLES / f"{name}.json").read_text())["data"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="WORD", help="networks whose name holds this word")
    word = parser.parse_args().only
    raise SystemExit(0 if report([e for e in entries() if word.lower() in e.name.lower()]) else 1)
