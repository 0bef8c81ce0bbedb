"""Three counts that agree: torch's counter, fvcore's, and a formula written from the papers' blocks."""

import csv
import json

import pytest
import yaml

import zoo  # noqa: F401
from vidiff.building import plan
from vidiff.commands import profile_flops
from vidiff.config import load
from vidiff.engine.profile import cost, fvcore_macs, kind_of, seconds
from vidiff.registry import BACKBONES

CLIP, PATCH, CLASSES = (3, 4, 24, 40), 8, 5
C, T, H, W = PATCH * PATCH * 3, 4, 3, 5
SPACE, D, HEADS, RATIO, E = H * W, 48, 2, 3, 20
WORDS, TEXT = 7, 10
READERS = ("dit_cross", "mmdit", "uvit", "dit_expert")


def planned(tmp_path, backbone, *overrides, reads_text=None):
    told = backbone["name"] in READERS or "reading" in backbone
    reads_text = told if reads_text is None else reads_text
    conditioner = {"name": "text_embeddings", "dim": TEXT, "length": WORDS} if reads_text else "label"
    tree = {
        "data": {"name": "stand_in", "shape": list(CLIP), "num_classes": CLASSES, "texts": [WORDS, TEXT]},
        "tokenizer": {"name": "frame_patch", "size": PATCH},
        "backbone": backbone,
        "conditioner": conditioner,
        "attention": "sdpa",
    }
    file = tmp_path / f"{backbone['name']}.yaml"
    file.write_text(yaml.safe_dump(tree))
    return plan(load(file, overrides))


def linear(rows, inputs, outputs):
    return rows * inputs * outputs


def attention(groups, n, m=None):
    """q k^T and what it weighs, for `groups` sets of n queries and m keys."""
    return 2 * groups * n * (m or n) * D


def around():
    """Time, entry and exit: the same in every AdaLN transformer (DiT, 2212.09748)."""
    tokens = T * SPACE
    time = linear(1, 256, D) + linear(1, D, D)
    return time + linear(tokens, C, D) + linear(tokens, D, C) + linear(1, D, 2 * D)


def block(looks):
    """adaLN, qkv, attention, projection and MLP; `looks` are (groups, tokens of each) of its attention."""
    tokens = T * SPACE
    mixing = linear(tokens, D, 3 * D) + linear(tokens, D, D) + attention(*looks)
    return linear(1, D, 6 * D) + mixing + 2 * linear(tokens, D, RATIO * D)


def singly():
    """Time, text, the one modulation of all blocks, entry and exit (PixArt, 2310.00426)."""
    time = linear(1, 256, D) + linear(1, D, D) + linear(1, D, 6 * D)
    text = linear(WORDS, TEXT, D) + linear(WORDS, D, D)
    return time + text + linear(T * SPACE, C, D) + linear(T * SPACE, D, C)


def look():
    """Attention of every token to the text."""
    return 2 * linear(T * SPACE, D, D) + 2 * linear(WORDS, D, D) + attention(1, T * SPACE, WORDS)


def cross(looks):
    """Self-attention, a look at the text, an MLP."""
    tokens = T * SPACE
    return 4 * linear(tokens, D, D) + attention(*looks) + look() + 2 * linear(tokens, D, RATIO * D)


def within(tokens):
    """Queries, keys and values, the projection back and an MLP."""
    return 4 * linear(tokens, D, D) + 2 * linear(tokens, D, RATIO * D)


def two_streams(depth):
    """A modulation and weights for each stream, one attention over both; in the last block the text has keys and
    values only (Stable Diffusion 3, 2403.03206, fig. 2)."""
    tokens = T * SPACE
    both = 2 * linear(1, D, 6 * D) + within(tokens) + within(WORDS) + attention(1, tokens + WORDS)
    last = linear(1, D, 6 * D) + linear(1, D, 2 * D) + within(tokens) + linear(WORDS, D, 2 * D)
    last += attention(1, tokens, tokens + WORDS)
    return around() + linear(WORDS, TEXT, D) + (depth - 1) * both + last


def all_tokens(depth):
    """Time, words and patches in one sequence, and a Linear of [x, skip] in the second half (U-ViT, 2209.12152)."""
    tokens = 1 + WORDS + T * SPACE
    enter = linear(1, 256, D) + linear(1, D, D) + linear(WORDS, TEXT, D) + linear(T * SPACE, C, D)
    skips = depth // 2 * linear(tokens, 2 * D, D)
    return enter + depth * (within(tokens) + attention(1, tokens)) + skips + linear(T * SPACE, D, C)


def experts(depth):
    """One sequence with shared weights, two modulations of both streams in a block, from a time of width E
    (CogVideoX, 2408.06072, fig. 3)."""
    tokens = WORDS + T * SPACE
    time = linear(1, D, E) + linear(1, E, E) + (2 * depth * 6 + 2) * linear(1, E, D)
    ends = linear(WORDS, TEXT, D) + linear(T * SPACE, C, D) + linear(T * SPACE, D, C)
    return time + ends + depth * (within(tokens) + attention(1, tokens))


def factorized(depth, **settings):
    return dict(name="dit_factorized", depth=depth, **settings, **BASE)


SPATIAL, TEMPORAL, JOINT = (T, SPACE), (SPACE, T), (1, T * SPACE)
BASE = dict(dim=D, num_heads=HEADS, mlp_ratio=float(RATIO))
FORMULAS = {
    "joint": (dict(name="dit_joint", depth=2, **BASE), around() + 2 * block(JOINT)),
    "interleaved": (factorized(4), around() + 2 * block(SPATIAL) + 2 * block(TEMPORAL)),
    "late fusion": (factorized(2, plan="late_fusion"), around() + block(SPATIAL) + block(TEMPORAL)),
    "sequential": (
        factorized(1, plan="sequential"),
        around() + block(SPATIAL) + linear(1, D, 3 * D) + 4 * linear(T * SPACE, D, D) + attention(*TEMPORAL),
    ),
    "split heads": (
        factorized(1, plan="split_heads"),
        around() + block(SPATIAL) - attention(*SPATIAL) // 2 + attention(*TEMPORAL) // 2,
    ),
    "axial": (factorized(3, plan="axial"), around() + block((T * H, W)) + block((T * W, H)) + block(TEMPORAL)),
    "strided": (
        factorized(2, plan="strided", window=[2, 3, 5]),
        around() + block((2, 2 * SPACE)) + block((2 * SPACE, 2)),
    ),
    "cross": (dict(name="dit_cross", depth=2, **BASE), singly() + 2 * cross(JOINT)),
    "cross factorized": (
        dict(name="dit_cross", depth=2, layout="factorized", **BASE),
        singly() + cross(SPATIAL) + cross(TEMPORAL) - look(),
    ),
    "joint, text by cross-attention": (
        dict(name="dit_joint", depth=2, reading="cross", **BASE),
        around() + linear(WORDS, TEXT, D) + 2 * (block(JOINT) + look()),
    ),
    "joint, text in context": (
        dict(name="dit_joint", depth=2, reading="in_context", **BASE),
        around()
        + linear(WORDS, TEXT, D)
        + 2 * (linear(1, D, 6 * D) + within(T * SPACE + WORDS))
        + 2 * attention(1, T * SPACE + WORDS),
    ),
    "two streams": (dict(name="mmdit", depth=3, **BASE), two_streams(3)),
    "all tokens": (dict(name="uvit", depth=5, **BASE), all_tokens(5)),
    "experts": (dict(name="dit_expert", depth=3, time_dim=E, **BASE), experts(3)),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_the_three_counts_agree(tmp_path, name):
    backbone, formula = FORMULAS[name]
    made = planned(tmp_path, backbone)
    assert cost(made).forward_macs == formula
    assert fvcore_macs(made) == formula


@pytest.mark.parametrize(("plan", "depth", "looking"), [("interleaved", 4, 2), ("axial", 3, 2), ("sequential", 2, 2)])
def test_a_text_costs_a_look_in_every_block_that_looks_within_frames(tmp_path, plan, depth, looking):
    told, plain = (planned(tmp_path, factorized(depth, plan=plan), reads_text=reads) for reads in (True, False))
    more = cost(told).forward_macs - cost(plain).forward_macs
    assert more == linear(WORDS, TEXT, D) + looking * look()
    assert fvcore_macs(told) == cost(told).forward_macs


@pytest.mark.parametrize("name", [c.name for c in BACKBONES if not getattr(c.target, "exact", False)])
def test_both_counters_agree_on_every_backbone_of_the_zoo(tmp_path, name):
    component = BACKBONES[name]
    made = planned(tmp_path, {"name": name, **component.tiny}, reads_text="tokens" in component.target.uses)
    counted = cost(made)
    assert counted.forward_macs == fvcore_macs(made)
    assert sum(flops for _, flops, _ in counted.by_kind().values()) == counted.forward_flops > 0


@pytest.mark.parametrize("implementation", ["math", "matmul", "sdpa", "auto"])
def test_every_attention_is_counted_alike(tmp_path, implementation):
    backbone, formula = FORMULAS["interleaved"]
    made = planned(tmp_path, backbone, f"attention={implementation}")
    assert cost(made).forward_macs == formula == fvcore_macs(made)


def test_parts_add_up_and_kinds_are_what_they_are(tmp_path):
    backbone, _ = FORMULAS["joint"]
    counted = cost(planned(tmp_path, backbone))
    kinds = counted.by_kind()
    assert kinds["attention"][1] == 2 * 2 * attention(*JOINT)
    assert kinds["projections"][1] == 2 * 2 * 4 * linear(T * SPACE, D, D)
    assert kinds["mlp"][1] == 2 * 2 * 2 * linear(T * SPACE, D, RATIO * D)
    assert kinds["modulation"][1] == 2 * (2 * linear(1, D, 6 * D) + linear(1, D, 2 * D))
    assert kinds["embedding"][1] == 2 * (around() - linear(1, D, 2 * D))
    assert "other" not in kinds and "conv" not in kinds
    for depth in (1, 2, 3, 9):
        table = counted.by_module(depth)
        assert sum(p for p, _, _ in table.values()) == counted.parameters
        assert sum(f for _, f, _ in table.values()) == counted.forward_flops
        assert sum(t for _, _, t in table.values()) == pytest.approx(counted.training_flops, rel=1e-12)
    # a product of a forward pass is two of a backward pass; nobody wants the gradient of the latent
    assert counted.training_flops == 3 * counted.forward_flops - 2 * (linear(T * SPACE, C, D) + linear(1, 256, D))
    assert counted.by_module(3)["backbone.blocks.0"] == counted.by_module(3)["backbone.blocks.1"]


def test_recomputation_costs_a_forward_pass_of_the_blocks(tmp_path):
    backbone, _ = FORMULAS["joint"]
    plain, again = (cost(planned(tmp_path, {**backbone, "recompute": r})) for r in (False, True))
    assert again.forward_flops == plain.forward_flops
    assert again.training_flops - plain.training_flops == 2 * 2 * block(JOINT)


def test_convolution_is_a_kind(tmp_path):
    counted = cost(plan(load("projects/example_idea/idea.yaml")))
    assert counted.by_kind()["conv"][1] > 0.9 * counted.forward_flops
    assert fvcore_macs(plan(load("projects/example_idea/idea.yaml"))) == counted.forward_macs


def test_kinds_by_place_and_operator():
    assert kind_of("backbone.blocks.0.attn", "aten.bmm") == "attention"
    assert kind_of("backbone.blocks.0.attn", "aten._scaled_dot_product_flash_attention") == "attention"
    assert kind_of("backbone.blocks.3.cross_attn.proj", "aten.addmm") == "projections"
    assert kind_of("backbone.time.mlp.0", "aten.addmm") == "embedding"
    assert kind_of("backbone.blocks.0.mlp.fc1", "aten.addmm") == "mlp"
    assert kind_of("backbone.head.adaln.linear", "aten.addmm") == "modulation"
    assert kind_of("backbone.mix", "aten.convolution") == "conv"
    assert kind_of("backbone.strange", "aten.mm") == "other"


def test_the_clock_runs(tmp_path):
    import torch

    forward, training = seconds(planned(tmp_path, FORMULAS["joint"][0]), torch.device("cpu"), runs=2)
    assert forward > 0 and training > 0  # which is longer, a busy machine does not tell


# ---- the command ----

NANO = "projects/nano_sora_cpu.yaml"


def lines(capsys, *words):
    assert profile_flops.main(list(words)) == 0
    return capsys.readouterr().out


def test_a_sweep_as_a_table_a_file_and_a_picture(tmp_path, capsys):
    joint, factorized = tmp_path / "joint.yaml", tmp_path / "factorized.yaml"
    for file, backbone in ((joint, "dit_joint"), (factorized, "dit_factorized")):
        data = {"name": "stand_in", "shape": [1, 4, 24, 24]}
        nodes = {
            "data": data,
            "tokenizer": {"name": "frame_patch", "size": 4},
            "backbone": {"name": backbone, "dim": 48},
        }
        file.write_text(yaml.safe_dump(nodes))
    words = [str(joint), str(factorized), "backbone.depth=2", "backbone.num_heads=2"]
    sweep = ["--sweep", "data.shape=[1,2,24,24],[1,8,24,24],[1,32,24,24]"]
    table = tmp_path / "t.csv"
    lines(capsys, *words, *sweep, "--plot", str(tmp_path / "p.png"), "--out", str(table))
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert [r["tokens"] for r in rows] == ["72", "288", "1152"] * 2
    grown = [[int(r["forward_flops"]) for r in rows[i : i + 3]] for i in (0, 3)]
    assert grown[0][2] / grown[0][1] > 2 * grown[1][2] / grown[1][1], "joint attention grows with the square"
    assert (tmp_path / "p.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_tables_as_json_and_markdown(capsys):
    found = json.loads(lines(capsys, NANO, "--by-kind", "--by-module", "2", "--check", "--out", "json"))
    (network,) = found["networks"]
    assert network["agree"] == "yes" and network["forward_flops"] == 2 * network["forward_macs"]
    for by in ("kind", "module"):
        assert sum(r["forward_flops"] for r in found["parts"] if r["by"] == by) == network["forward_flops"]
    assert lines(capsys, NANO, "--out", "md").splitlines()[1].startswith("| ---")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["backbone.depth=2"], "name at least one YAML file"),
        ([NANO, "--sweep", "data.frames"], "write key=value,value"),
        ([NANO, "--sweep", "data.frames=7"], "7 frames"),
        ([NANO, "--out", "table.xls"], "one of csv, md, json"),
        ([NANO, "--plot", "p.png"], "draw a --sweep"),
        ([NANO, "backbone.dept=2"], "Did you mean 'depth'"),
    ],
)
def test_refusals(capsys, words, text):
    assert profile_flops.main(words) == 2
    assert text in capsys.readouterr().err
