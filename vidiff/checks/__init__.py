"""What every component of a kind promises, as functions anyone can call: `vidiff check FILE.py:Name`.

A check takes a registered component and raises `Broken` with numbers when the promise is not kept; its docstring
says in words what is then wrong. It raises `Beside` when the promise does not concern this component.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from vidiff.checks import (
    attention,
    backbone,
    cache,
    callback,
    conditioner,
    dataset,
    encoder,
    guidance,
    metric,
    noise,
    objective,
    path,
    positions,
    prediction,
    sampler,
    spacing,
    task,
    times,
    tokenizer,
    weighting,
)
from vidiff.checks.parts import Beside, Broken
from vidiff.errors import Interrupted
from vidiff.registry import Component

Check = Callable[[Component], None]

MODULES = (attention, backbone, cache, callback, conditioner, dataset, encoder, guidance, metric, noise, objective,
           path, positions, prediction, sampler, spacing, task, times, tokenizer, weighting)  # fmt: skip

CHECKS: dict[str, tuple[Check, ...]] = {module.__name__.rpartition(".")[2]: module.CHECKS for module in MODULES}


@dataclass(frozen=True)
class Finding:
    """How one check of one component came out, and why."""

    check: str
    outcome: Literal["kept", "broken", "beside"]
    words: str = ""


def examine(component: Component) -> Iterator[Finding]:
    """Run every check of the component's kind. Raises ValueError for a kind without checks."""
    if component.kind not in CHECKS:
        raise ValueError(f"there are no checks of kind {component.kind}. There are of {', '.join(CHECKS)}.")
    for check in CHECKS[component.kind]:
        yield judge(check, component)


def judge(check: Check, component: Component) -> Finding:
    """Run one check."""
    name, meaning = check.__name__, " ".join((inspect.getdoc(check) or "").split())
    try:
        check(component)
    except Beside as why:
        return Finding(name, "beside", str(why))
    except Interrupted:
        raise
    except Broken as numbers:
        return Finding(name, "broken", f"{meaning} Found: {numbers}")
    except Exception as error:  # a user's component may fail in any way; that is a finding too
        text = (str(error) or "no message").splitlines()[0]
        return Finding(name, "broken", f"{meaning} Found: it raises {type(error).__name__}: {text}")
    return Finding(name, "kept")
