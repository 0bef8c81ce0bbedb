"""What no x_t and no time changes is computed once per sampling run, with the same bits."""

import pytest
import torch
import yaml

import zoo  # noqa: F401
from vidiff.building import build_diffuser, plan
from vidiff.config import load
from vidiff.random import Random
from vidiff.registry import BACKBONES, GUIDANCE
from vidiff.types import Cond, join

READERS = sorted(c.name for c in BACKBONES if hasattr(c.target, "prepare"))
STEPS, WORDS, WIDTH, DEPTH = 4, 7, 10, 3
LOOKING = {
    ("dit_cross", ()): DEPTH,
    ("dit_joint", (("reading", "cross"),)): DEPTH,
    ("dit_factorized", (("depth", 4),)): 2,
    ("dit_factorized", (("plan", "axial"),)): 2,
    ("dit_factorized", (("plan", "split_heads"),)): DEPTH,
}
"""How many blocks look at the text by cross-attention; elsewhere it is among the tokens of a stream."""
CASES = (
    list(LOOKING) + [(name, ()) for name in READERS if name not in {name for name, _ in LOOKING}] + [("dit_joint", ())]
)


def made(tmp_path, backbone, guidance="none", **settings):
    tree = {
        "data": {"name": "stand_in", "shape": [1, 4, 8, 16], "texts": [WORDS, WIDTH]},
        "tokenizer": {"name": "tubelet", "size": [2, 4, 4]},
        "backbone": {"name": backbone, "dim": 48, "num_heads": 2, "depth": DEPTH, **settings},
        "conditioner": {"name": "text_embeddings", "dim": WIDTH, "length": WORDS},
        "attention": "math",
        "guidance": guidance,
        "sampler": {"name": "euler", "steps": STEPS},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    planned = plan(load(tmp_path / "r.yaml"))
    diffuser = build_diffuser(planned.config, planned.dataset).eval()
    torch.manual_seed(3)
    for p in diffuser.backbone.parameters():
        torch.nn.init.normal_(p, std=0.15)
    items = [planned.dataset[i] for i in range(2)]
    return planned, diffuser, {k: torch.stack([item[k] for item in items]) for k in ("text_tokens", "text_mask")}


def drawn(planned, diffuser, batch):
    return diffuser.sample(planned.grid, planned.sampler, planned.guidance, Random(0, rows=range(2)), batch)


def projections(backbone):
    """The Linears that see the text and nothing that changes with x_t or time."""
    looks = [block.cross.kv for block in backbone.blocks if getattr(block, "cross", None) is not None]
    text = backbone.text
    return [text.fc1 if hasattr(text, "fc1") else text, *looks]


@pytest.mark.parametrize("guidance", ["none", {"name": "cfg", "scale": 3.0}])
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join([case[0], *(str(v) for _, v in case[1])]))
def test_once_per_run_and_the_same_bits(tmp_path, monkeypatch, case, guidance):
    planned, diffuser, batch = made(tmp_path, case[0], guidance, **dict(case[1]))
    calls, linears = [], 1 + LOOKING.get(case, 0)
    for i, layer in enumerate(projections(diffuser.backbone)):
        layer.register_forward_hook(lambda *_, i=i: calls.append(i))
    once = drawn(planned, diffuser, batch)
    assert sorted(calls) == list(range(linears))
    calls.clear()
    monkeypatch.setattr(type(diffuser), "prepared", lambda self, conds: list(conds))
    every = drawn(planned, diffuser, batch)
    assert len(calls) == STEPS * linears
    assert torch.equal(once, every) and once.std() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("layout", ["joint", "factorized"])
def test_keys_and_values_of_a_text_and_a_picture(layout):
    """Each block looks at its own: two temporal blocks of four look at nothing."""
    from functools import partial

    from vidiff.registry import build
    from vidiff.types import CondSpec, Grid

    grid = Grid(6, 2, 3, 4)
    wiring = dict(
        grid=grid, out_channels=6, cond=CondSpec(tokens=10, length=5, image=8), attention=build("attention", "math")
    )
    net = build("backbone", {"name": "dit_cross", "dim": 48, "num_heads": 2, "depth": 4, "layout": layout},
                positions=partial(build, "positions", "rotary"), **wiring).eval()  # fmt: skip
    torch.manual_seed(1)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.15)
    cond = Cond(
        tokens=torch.randn(2, 5, 10), mask=torch.arange(5) < torch.tensor([[3], [5]]), image=torch.randn(2, 9, 8)
    )
    ready = net.prepare(cond)
    shapes = [tuple(part.shape) for part in ready.prepared]
    looking = 4 if layout == "joint" else 2
    assert shapes == [(2, 5, 96)] * looking + [(2, 9, 96)] * looking
    x, time = torch.randn(2, *grid), torch.tensor([0.2, 0.9])
    answer = net(x, time, cond)
    assert torch.equal(net(x, time, ready), answer)
    swapped = ready.prepared[1], ready.prepared[0], *ready.prepared[2:]
    assert not torch.allclose(net(x, time, Cond(**{**vars(ready), "prepared": swapped})), answer, atol=1e-3)


def test_conditions_are_joined_with_what_was_prepared_or_without():
    a, b = (
        Cond(tokens=torch.full((1, 2, 3), v), prepared=(torch.full((1, 4), v), torch.full((1, 5), -v)))
        for v in (1.0, 2.0)
    )
    both = join([a, b])
    assert both.prepared[0].tolist() == [[1.0] * 4, [2.0] * 4] and both.prepared[1].shape == (2, 5)
    assert join([a, Cond(tokens=torch.zeros(1, 2, 3))]).prepared is None, "the tokens are still there"


@pytest.mark.parametrize("name", [c.name for c in GUIDANCE if c.file.parent.parent.name == "zoo"])
def test_every_guidance_draws_the_same_with_and_without(tmp_path, monkeypatch, name):
    component = GUIDANCE[name]
    if name in ("autoguidance", "per_condition"):
        pytest.skip("needs another run, or several conditions")
    planned, diffuser, batch = made(tmp_path, "dit_cross", {"name": name, **component.tiny})
    once = drawn(planned, diffuser, batch)
    monkeypatch.setattr(type(diffuser), "prepared", lambda self, conds: list(conds))
    assert torch.allclose(once, drawn(planned, diffuser, batch), atol=1e-5)
