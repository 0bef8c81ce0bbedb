"""Labels: the null row, the gradient, the refusals."""

import pytest
import torch

import zoo.conditioners  # noqa: F401
from vidiff.registry import CONDITIONERS, build


def label(**settings):
    return build("conditioner", {"name": "label", **settings}, width=6, num_classes=4)


def test_rows_are_classes_and_the_last_is_null():
    conditioner = label()
    assert conditioner.embedding.weight.shape == (5, 6)
    drop = torch.tensor([False, True, False])
    vector = conditioner({"label": torch.tensor([3, 1, 0])}, drop).vector
    assert torch.equal(vector, conditioner.embedding.weight[[3, 4, 0]])


def test_a_dropped_label_learns_nothing():
    conditioner = label()
    conditioner({"label": torch.tensor([3, 1])}, torch.tensor([False, True])).vector.sum().backward()
    assert conditioner.embedding.weight.grad.sum(1).tolist() == [0, 0, 0, 6, 6]


def test_drop_is_a_setting():
    assert label().drop == 0.1 and label(drop=0.3).drop == 0.3
    assert list(CONDITIONERS["label"].settings) == ["drop", "route"]


def test_data_without_labels_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"needs a data set with labels.*Use conditioner=none") as error:
        build("conditioner", "label", width=6, num_classes=0)
    assert "\n" not in str(error.value)


def test_a_batch_without_labels_is_refused():
    with pytest.raises(ValueError, match="the batch has no labels"):
        label()({"video": None}, torch.tensor([False]))


def test_the_route_moves_the_same_embedding():
    torch.manual_seed(0)
    vector = build("conditioner", "label", width=6, num_classes=4)
    torch.manual_seed(0)
    token = build("conditioner", {"name": "label", "route": "token"}, width=6, num_classes=4)
    batch, drop = {"label": torch.tensor([3, 1, 0])}, torch.tensor([False, True, False])
    cond = token(batch, drop)
    assert token.spec.provides == {"tokens"} and token.spec.tokens == 6 and token.spec.length == 1
    assert torch.equal(cond.tokens, vector(batch, drop).vector[:, None]) and cond.vector is None
    assert cond.mask.shape == (3, 1) and cond.mask.all()
