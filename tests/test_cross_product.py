"""Every tokenizer with every backbone, conditioner, attention and positions: it trains and samples, or `plan` says why.

By default every backbone meets every conditioner, and over these pairs every tokenizer, attention and positions
in turn; `-m slow` takes the whole product.
"""

import itertools
import logging

import pytest
import torch
import yaml

import zoo  # noqa: F401
from vidiff.building import build_diffuser, plan
from vidiff.config import ConfigError, load
from vidiff.engine.data import collate
from vidiff.random import Random, generator
from vidiff.registry import ATTENTION, BACKBONES, CONDITIONERS, DATASETS, KINDS, POSITIONS, TOKENIZERS

B, SHAPE = 2, (1, 6, 12, 24)

FOLDERS = {"image_clip", "text_clip", "text_t5"}
"""Conditioners that read a folder of published weights: tests/zoo/conditioners makes toy ones."""


class Everything:
    """Clips with an entry for every conditioner."""

    shape, num_classes = SHAPE, 5

    def __init__(self, *, seed: int, split: str):
        self.seed = seed

    def __len__(self):
        return 7

    def __getitem__(self, i):
        dice = generator(self.seed, i)
        video = torch.randint(256, SHAPE, dtype=torch.uint8, generator=dice)
        return {
            "video": video,
            "label": i % 5,
            "text": f"clip {i}",
            "fps": 8.0 + i,
            "camera": torch.randn(SHAPE[1], 3, 4, generator=dice),
            "intrinsics": 0.5 + torch.rand(4, generator=dice),
            "text_tokens": torch.randn(5, 10, generator=dice),
            "text_mask": torch.arange(5) < 3,
            "image_tokens": torch.randn(6, 14, generator=dice),
            "text_vector": torch.randn(6, generator=dice),
        }


@pytest.fixture(autouse=True, scope="module")
def everything():
    DATASETS.register("everything")(Everything)
    yield
    DATASETS.remove("everything")


def node(kind, name):
    return {"name": name, **KINDS[kind][name].tiny}


def ours(registry):
    """The names of the zoo (other tests register components of their own)."""
    return [c.name for c in registry if c.file.parent.parent.name == "zoo"]


CONDITIONS = [node("conditioner", n) for n in ours(CONDITIONERS) if n not in FOLDERS] + [
    {"name": "frames", "frames": [0], "route": "tokens"},
    {"name": "camera", "route": "poses"},
    {"name": "several", "parts": ["label", "frames", {"name": "camera", "route": "poses"}]},
    {"name": "several", "parts": [node("conditioner", "text_bytes"), "image_patches", node("conditioner", "frames")]},
    {"name": "several", "parts": [node("conditioner", n) for n in ("text_embeddings", "image_embeddings")]},
]
NAMES = [f"{c['name']}{i}" for i, c in enumerate(CONDITIONS)]
REST = list(itertools.product(ours(TOKENIZERS), ours(ATTENTION), ours(POSITIONS)))
PAIRS = list(itertools.product(ours(BACKBONES), range(len(CONDITIONS))))


def configured(folder, backbone, conditioner, tokenizer, attention, positions):
    tree = {
        "data": "everything",
        "tokenizer": node("tokenizer", tokenizer),
        "backbone": node("backbone", backbone),
        "conditioner": conditioner,
        "attention": node("attention", attention),
        "positions": node("positions", positions),
        "sampler": {"name": "euler", "steps": 2},
    }
    file = folder / "crossed.yaml"
    file.write_text(yaml.safe_dump(tree))
    return load(file)


def works_or_is_refused(config):
    """True where it ran, False where `plan` refused it in one line per problem, with a name and a way out."""
    try:
        made = plan(config)
    except ConfigError as error:
        names = [n["name"] for n in config.components.values()]
        for problem in error.problems:
            assert "\n" not in problem and any(name in problem for name in names), problem
            assert "Use " in problem or "use " in problem, problem
        return False
    diffuser = build_diffuser(config, made.dataset)
    batch = collate([made.dataset[i] for i in range(B)])
    random = Random(0, "crossed", rows=range(B))
    optimizer = torch.optim.SGD(diffuser.parameters(), lr=1e-3)
    loss = diffuser(batch, random)["loss"]
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and all(p.isfinite().all() for p in diffuser.parameters())
    given = {key: value for key, value in batch.items() if key in diffuser.reads | {"video"}}
    video = diffuser.eval().sample(made.grid, made.sampler, made.guidance, random, given)
    assert video.shape == (B, *SHAPE) and video.isfinite().all()
    return True


@pytest.mark.parametrize(("backbone", "which"), PAIRS, ids=lambda x: NAMES[x] if isinstance(x, int) else x)
def test_every_backbone_meets_every_conditioner(tmp_path, backbone, which):
    *rest, positions = REST[PAIRS.index((backbone, which)) * 13 % len(REST)]  # 13 shares no factor with its sizes
    positions = positions if "positions" in BACKBONES[backbone].wiring else "sincos"
    works_or_is_refused(configured(tmp_path, backbone, CONDITIONS[which], *rest, positions))


@pytest.mark.parametrize("backbone", [n for n in ours(BACKBONES) if not getattr(BACKBONES[n].target, "exact", False)])
@pytest.mark.parametrize("kind", ["tokenizer", "attention", "positions"])
def test_every_backbone_meets_every_other_part(tmp_path, backbone, kind):
    """One part at a time beside tubelets, sdpa and sincos, with a label, or with text where it needs that."""
    text = "tokens" in getattr(BACKBONES[backbone].target, "needs", ())
    ran = []
    for name in ours(KINDS[kind]):
        parts = {"tokenizer": "tubelet", "attention": "sdpa", "positions": "sincos", kind: name}
        condition = node("conditioner", "text_bytes" if text else "label")
        ran.append(works_or_is_refused(configured(tmp_path, backbone, condition, *parts.values())))
    assert any(ran), "nothing of this kind works with it"


@pytest.mark.slow
@pytest.mark.parametrize("positions", ours(POSITIONS))
@pytest.mark.parametrize(("backbone", "which"), PAIRS, ids=lambda x: NAMES[x] if isinstance(x, int) else x)
def test_the_whole_product(tmp_path, backbone, which, positions):
    logging.disable(logging.INFO)
    for tokenizer, attention in itertools.product(ours(TOKENIZERS), ours(ATTENTION)):
        works_or_is_refused(configured(tmp_path, backbone, CONDITIONS[which], tokenizer, attention, positions))


HEADS = dict(dim=48, num_heads=2)


@pytest.mark.parametrize(
    ("changes", "names", "words", "remedy"),
    [
        ({"tokenizer": {"name": "tubelet", "size": [4, 5, 7]}}, "tokenizer tubelet", "tubelets of 3x4x6",
         {"tokenizer": {"name": "tubelet", "size": [3, 4, 6]}}),
        ({"tokenizer": {"name": "frame_patch", "size": 5}}, "tokenizer frame_patch", "1x4x4",
         {"tokenizer": {"name": "frame_patch", "size": 4}}),
        ({"tokenizer": {"name": "haar3d", "levels": [2, 3, 3]}}, "tokenizer haar3d", "2x4x8",
         {"tokenizer": {"name": "haar3d", "levels": [1, 2, 3]}}),
        ({"attention": "window", "conditioner": "text_bytes"}, "attention window", "attention=sdpa", {"attention": "sdpa"}),
        ({"guidance": "cfg", "conditioner": "none"}, "guidance cfg", "guidance none", {"guidance": "none"}),
        ({"guidance": "cfg", "conditioner": "none"}, "guidance cfg", "label", {"conditioner": "label"}),
        ({"backbone": "unet3d", "conditioner": "text_bytes"}, "conditioner text_bytes", "backbone dit_factorized",
         {"backbone": "dit_factorized"}),
        ({"backbone": {"name": "dit_factorized", "depth": 5}}, "backbone dit_factorized", "depth=6",
         {"backbone": {"name": "dit_factorized", "depth": 6}}),
        ({"backbone": {"name": "uvit", "depth": 4, **HEADS}}, "backbone uvit", "depth=5",
         {"backbone": {"name": "uvit", "depth": 5, **HEADS}}),
    ],
)  # fmt: skip
def test_a_refusal_names_both_and_its_remedy_works(tmp_path, changes, names, words, remedy):
    """The remedy is part of the one line, and with it the configuration is not refused any more."""
    tree = {"data": "everything", "tokenizer": "pixels", "conditioner": "label"}
    tree |= {"backbone": {"name": "dit_joint", "depth": 2, **HEADS}, **changes}
    file = tmp_path / "r.yaml"
    file.write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError) as error:
        plan(load(file))
    (problem,) = error.value.problems
    assert names in problem and words in problem.partition("Use ")[2], problem
    file.write_text(yaml.safe_dump(tree | remedy))
    plan(load(file))
