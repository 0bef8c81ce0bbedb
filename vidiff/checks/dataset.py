"""What every data set promises: clips that are a function of (seed, split, number)."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import torch
from torch.utils.data import default_collate

from vidiff.checks.parts import Beside, require, watched_dice
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
    """[i]["video"] is uint8 of `shape` (float32 where the data set knows their `law`), "fps" is above 0, and there is a
    label below num_classes when there are classes, for every i >= 0: i beyond the length is another visit."""
    for split in ("train", "val", "test"):
        data = make(component, split)
        require(len(data) >= 1, f"{split} has no clips.")
        require(data.shape[0] in (1, 3), f"{data.shape[0]} channels: grey has 1 and colour 3.")
        require(isinstance(data.num_classes, int), f"num_classes is {data.num_classes!r}, no int.")
        for i in (0, len(data) - 1, len(data), 5 * len(data) + 1):
            item = data[i]
            found, promised = (tuple(item["video"].shape), item["video"].dtype), shape_of(data, i)
            dtype = torch.float32 if hasattr(data, "law") else torch.uint8
            require(found == (promised, dtype), f"[{i}] is {found}, its `shape` is {promised}.")
            require(("label" in item) == (data.num_classes > 0), f"[{i}] and num_classes={data.num_classes} disagree.")
            require(0 <= item.get("label", 0) < max(1, data.num_classes), f"[{i}] has label {item.get('label')}.")
            require(item["fps"] > 0, f"[{i}] has fps {item['fps']}.")
            require(isinstance(item.get("text", ""), str), f"[{i}] has text {item.get('text')!r}, no str.")


def an_item_is_a_function_of_its_number(component: Component) -> None:
    """The same number gives the same clip, in any order, from any copy and any process, without a global generator:
    workers and resumed runs depend on it."""
    for split in ("train", "val", "test"):
        with watched_dice():
            first, second = make(component, split), make(component, split)
            numbers = [0, 3, 1, 2 * len(first) + 1, len(first)]
            forwards = [first[i] for i in numbers]
            backwards = [second[i] for i in reversed(numbers)][::-1]
        for i, a, b in zip(numbers, forwards, backwards, strict=True):
            require(same(a, b), f"{split}[{i}] differs between two copies.")
            require(same(a, first[i]), f"{split}[{i}] differs from one reading to the next.")
    data = make(component)
    data[0]
    require(same(copy.deepcopy(data)[2], data[2]), "[2] differs in a copy made after the first reading.")


def training_differs_by_seed_and_by_visit(component: Component) -> None:
    """Another seed, and another visit (i + len), shows training clips otherwise: in another order, window or flip. Draw
    them from vidiff.random.generator(seed, ..., i), or every epoch and every seed is the same."""
    ours, theirs = make(component, seed=1), make(component, seed=2)
    videos = [(ours[i]["video"], theirs[i]["video"], ours[i + len(ours)]["video"]) for i in range(6)]
    require(any(not same(dict(v=a), dict(v=b)) for a, b, _ in videos), "six clips are the same with seeds 1 and 2.")
    require(any(not same(dict(v=a), dict(v=c)) for a, _, c in videos), "six clips are the same at their second visit.")


def held_out_clips_are_held_out(component: Component) -> None:
    """No validation clip is a training clip, or the validation loss says nothing. The first 1,000 are compared."""
    train, val = make(component), make(component, "val")
    seen = {train[i]["video"].numpy().tobytes() for i in range(min(len(train), 1000))}
    leaked = [i for i in range(min(len(val), 1000)) if val[i]["video"].numpy().tobytes() in seen]
    require(not leaked, f"val[{leaked[0] if leaked else 0}] is in the training split.")


def items_can_be_collated(component: Component) -> None:
    """Items of one shape have the same keys, sizes and types, so that they make a batch."""
    data = make(component)
    alike = [i for i in range(3 * len(data)) if shape_of(data, i) == shape_of(data, 0)][:3]
    batch, expected = default_collate([data[i] for i in alike]), (3, *shape_of(data, 0))
    require(tuple(batch["video"].shape) == expected, f"a batch of three is {tuple(batch['video'].shape)}.")
    require(batch["video"].dtype == data[0]["video"].dtype, f"a batch of three is {batch['video'].dtype}.")
    require(len(batch["fps"]) == 3, "a batch of three has not three fps.")


def shapes_are_known_beforehand(component: Component) -> None:
    """A data set of several shapes says them all in `shapes`, and in `shape_of(i)` that of clip i, the same at every
    visit: batches are planned before a clip is read."""
    if not hasattr(make(component), "shape_of"):
        raise Beside("its clips have one shape")
    for split, visit in product(("train", "val", "test"), (0, 1)):
        data = make(component, split)
        for i in range(min(len(data), 24)):
            shape, later = tuple(data.shape_of(i)), tuple(data.shape_of(i + visit * len(data)))
            require(shape == later, f"{split}[{i}] has shape {shape} at first and {later} at visit {visit}.")
            require(shape in {tuple(s) for s in data.shapes}, f"{split}[{i}] has {shape}, which `shapes` lacks.")


def an_unknown_split_is_refused(component: Component) -> None:
    """A misspelt split is a ValueError that names it, never another split."""
    try:
        make(component, "validation")
    except ValueError as error:
        require("'validation'" in str(error), f"the refusal does not name 'validation': {error}")
        return
    require(False, "split 'validation' was accepted.")


CHECKS = (items_are_what_it_says, an_item_is_a_function_of_its_number, training_differs_by_seed_and_by_visit,
          held_out_clips_are_held_out, items_can_be_collated, shapes_are_known_beforehand,
          an_unknown_split_is_refused)  # fmt: skip
