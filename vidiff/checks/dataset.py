"""What every data set promises: clips that are a function of (seed, split, number)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.utils.data import default_collate

from vidiff.checks.parts import require, watched_dice
from vidiff.registry import Component


def make(component: Component, split: str = "train", seed: int = 1) -> Any:
    """A tiny one."""
    return component.build(component.tiny, seed=seed, split=split)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two items are equal."""
    pairs = [(a[k], b.get(k)) for k in a]
    return a.keys() == b.keys() and all(torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in pairs)


def shape_of(data: Any, i: int) -> tuple[int, ...]:
    """What a data set says of the shape of clip i."""
    return tuple(data.shape_of(i) if hasattr(data, "shape_of") else data.shape)


def items_are_what_it_says(component: Component) -> None:
    """[i]["video"] is uint8 of `shape` (float32 where the data set knows their `law`), and there is a label below
    num_classes when there are classes, for every i >= 0: i beyond the length is another visit."""
    for split in ("train", "val", "test"):
        data = make(component, split)
        for i in (0, len(data) - 1, len(data), 5 * len(data) + 1):
            item = data[i]
            found, promised = (tuple(item["video"].shape), item["video"].dtype), shape_of(data, i)
            dtype = torch.float32 if hasattr(data, "law") else torch.uint8
            require(found == (promised, dtype), f"[{i}] is {found}, its `shape` is {promised}.")
            require(("label" in item) == (data.num_classes > 0), f"[{i}] and num_classes={data.num_classes} disagree.")
            require(0 <= item.get("label", 0) < max(1, data.num_classes), f"[{i}] has label {item.get('label')}.")


def an_item_is_a_function_of_its_number(component: Component) -> None:
    """The same number gives the same clip, in any order and from any copy, without a global generator: workers and
    resumed runs depend on it."""
    with watched_dice():
        first, second = make(component), copy.deepcopy(make(component))
        numbers = [0, 3, 1, 2 * len(first) + 1]
        forwards = [first[i] for i in numbers]
        backwards = [second[i] for i in reversed(numbers)][::-1]
    for i, a, b in zip(numbers, forwards, backwards, strict=True):
        require(same(a, b), f"[{i}] differs between two copies.")


def held_out_clips_are_held_out(component: Component) -> None:
    """No validation clip is a training clip, or the validation loss says nothing."""
    train, val = make(component), make(component, "val")
    seen = {bytes(torch.as_tensor(train[i]["video"]).numpy().tobytes()) for i in range(min(len(train), 200))}
    leaked = [i for i in range(min(len(val), 200)) if val[i]["video"].numpy().tobytes() in seen]
    require(not leaked, f"val[{leaked[0] if leaked else 0}] is in the training split.")


def items_can_be_collated(component: Component) -> None:
    """Items of one shape have the same keys and sizes, so that they make a batch."""
    data = make(component)
    alike = [i for i in range(3 * len(data)) if shape_of(data, i) == shape_of(data, 0)][:3]
    batch, expected = default_collate([data[i] for i in alike]), (3, *shape_of(data, 0))
    require(tuple(batch["video"].shape) == expected, f"a batch of three is {tuple(batch['video'].shape)}.")


def an_unknown_split_is_refused(component: Component) -> None:
    """A misspelt split is an error, never another split."""
    try:
        make(component, "validation")
    except ValueError:
        return
    require(False, "split 'validation' was accepted.")


CHECKS = (items_are_what_it_says, an_item_is_a_function_of_its_number, held_out_clips_are_held_out,
          items_can_be_collated, an_unknown_split_is_refused)  # fmt: skip
