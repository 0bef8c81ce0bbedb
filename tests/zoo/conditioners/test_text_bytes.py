"""The byte encoder: spelling, the null condition, masks, routes, learning."""

import logging

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.registry import CONDITIONERS
from zoo.conditioners.text_bytes import END

KEEP = torch.zeros(3, dtype=torch.bool)


def make(width=20, **settings):
    torch.manual_seed(0)
    node = {"dim": 24, "depth": 2, "num_heads": 3, "length": 9, **settings}
    return CONDITIONERS["text_bytes"].build(node, width=width).eval()


def test_texts_are_spelled_in_bytes_with_an_end():
    ids, mask = make().spell(["ab", "", "é"])
    assert ids[0].tolist() == [97, 98] + [END] * 7 and mask[0].tolist() == [True] * 3 + [False] * 6
    assert ids[1].tolist() == [END] * 9 and mask[1].sum() == 1
    assert ids[2].tolist()[:3] == [0xC3, 0xA9, END] and mask[2].sum() == 3


def test_long_texts_are_cut_and_it_says_so_once(caplog):
    conditioner = make()
    with caplog.at_level(logging.WARNING, "vidiff.text"):
        for _ in range(2):
            ids, mask = conditioner.spell(["12345678", "123456789", "x"])
    assert ids[0].tolist() == [*b"12345678", END] and ids[1].tolist() == ids[0].tolist() and mask[:2].all()
    assert len(caplog.records) == 1 and "cut to 8 bytes" in caplog.text


@torch.no_grad()
def test_one_byte_more_or_elsewhere_is_another_text():
    texts = ["seven", "seven ", "evens"]
    cond = make()({"text": texts}, KEEP)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (cond.vector[a] - cond.vector[b]).abs().max() > 1e-4


@torch.no_grad()
def test_the_null_condition_is_not_the_empty_text():
    conditioner = make()
    empty, null = (conditioner({"text": [""]}, torch.tensor([d])) for d in (False, True))
    assert not torch.allclose(empty.vector, null.vector, atol=1e-4)
    assert not torch.allclose(empty.tokens[:, 0], null.tokens[:, 0], atol=1e-4)
    assert null.mask.sum() == 1 and (null.tokens[:, 1:] == 0).all()


@torch.no_grad()
def test_more_room_changes_nothing():
    """What lies behind the end is not seen, however much there is of it."""
    short, long = make(), make(length=14)
    long.load_state_dict(
        {k: torch.cat([v, torch.ones(5, 24)]) if k == "places" else v for k, v in short.state_dict().items()}
    )
    a, b = (c({"text": ["0 and 7", "5", ""]}, KEEP) for c in (short, long))
    assert torch.allclose(a.vector, b.vector, atol=1e-6)
    assert torch.allclose(a.tokens, b.tokens[:, :9], atol=1e-6) and (b.tokens[:, 9:] == 0).all()


@pytest.mark.parametrize(
    ("gives", "routes"), [("both", {"vector", "tokens"}), ("tokens", {"tokens"}), ("vector", {"vector"})]
)
def test_its_routes_are_a_setting(gives, routes):
    conditioner = make(gives=gives)
    cond = conditioner({"text": ["a", "b", "c"]}, KEEP)
    assert conditioner.spec.provides == routes
    assert {r for r in ("vector", "tokens") if getattr(cond, r) is not None} == routes
    assert (cond.mask is not None) == ("tokens" in routes)


def test_everything_learns():
    conditioner = make()
    cond = conditioner({"text": ["ab", "c", "d"]}, torch.tensor([False, False, True]))
    (cond.vector.square().sum() + (cond.tokens * torch.randn(3, 9, 24)).sum()).backward()
    assert all((p.grad != 0).any() for p in conditioner.parameters())


def test_no_text_is_refused():
    with pytest.raises(ValueError, match="the batch has no text"):
        make()({"label": torch.zeros(3)}, KEEP)
