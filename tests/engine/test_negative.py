"""A negative text: the branch that guidance compares with is told it, and loses everything else."""

import pytest
import torch

import zoo  # noqa: F401
from vidiff.diffuser import Diffuser
from vidiff.registry import build
from vidiff.types import Grid

BATCH = {"label": torch.tensor([1, 4]), "text": ["a three", "a nine"]}
TEXT = {"name": "text_bytes", "dim": 16, "depth": 1, "num_heads": 2, "length": 12}


def model(conditioner):
    """A Diffuser whose conditioner is all that is asked."""
    torch.manual_seed(0)
    made = build("conditioner", conditioner, width=6, num_classes=5, grid=Grid(2, 3, 4, 5))
    tokenizer = build("tokenizer", {"name": "tubelet", "size": [1, 1, 1]})
    return Diffuser(tokenizer, made, torch.nn.Linear(1, 1), build("objective", "rectified_flow")).eval()


def told(cond):
    return [getattr(cond, name) for name in ("vector", "tokens", "mask") if getattr(cond, name) is not None]


@torch.no_grad()
@pytest.mark.parametrize("conditioner", [TEXT, {"name": "several", "parts": ["label", TEXT]}], ids=["text", "several"])
def test_the_null_branch_is_told_the_negative_text(conditioner):
    diffuser = model(conditioner)
    cond, null = diffuser.conditions(BATCH, 2)
    same, against = diffuser.conditions({**BATCH, "negative": ["a one", "a two"]}, 2)
    drop = torch.tensor([[True, False, False]] * 2) if conditioner is not TEXT else torch.tensor([False, False])
    expected = diffuser.conditioner({**BATCH, "text": ["a one", "a two"]}, drop)
    assert all(torch.equal(a, b) for a, b in zip(told(same), told(cond), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(told(against), told(expected), strict=True))
    assert not torch.equal(against.tokens, null.tokens)
    other = diffuser.conditions({**BATCH, "label": torch.tensor([0, 2]), "negative": ["a one", "a two"]}, 2)[1]
    assert all(torch.equal(a, b) for a, b in zip(told(against), told(other), strict=True)), "the label is dropped"
