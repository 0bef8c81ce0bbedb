"""Published checkpoints as run folders, and back: files, families and checks; the converters know the networks.

Nothing of a foreign file is executed: safetensors, or torch.load with weights_only=True.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from vidiff.building import Plan
from vidiff.config import Config, load
from vidiff.config.checking import plain, refuses
from vidiff.engine.checkpoint import Snapshot, read_tensors
from vidiff.engine.checkpoint import load as load_checkpoint
from vidiff.errors import Refused
from vidiff.registry import CONVERTERS, Component, build, did_you_mean
from vidiff.types import Converter, Description

GROUPS = ("ema", "ema_state_dict", "model_ema", "model", "model_state_dict", "state_dict", "module", "net")
"""Where training codes keep weights in their files, averaged ones first."""

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""

INDEX = ".safetensors.index.json"
"""The end of the name of a file that says which tensor lies in which of several files."""

ASIDE = "aside"
"""The part of a converted checkpoint that the network does not use: it goes back into the official file."""

State = Mapping[str, Tensor]


# ---- reading ----


def read_state(path: Path) -> tuple[dict[str, Tensor], str]:
    """A file, an index of several, or a folder of .safetensors files -> (name -> tensor, which part of it that was).

    Raises Refused.
    """
    if path.is_dir() or path.name.endswith(INDEX):
        return _unwrapped(_read_files(path)), ""
    if not path.is_file():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise Refused(f"{path} does not exist.{did_you_mean(path.name, names)}")
    return _bare(read_tensors(path) if path.suffix == ".safetensors" else _read_pickle(path), path)


def _read_files(path: Path) -> dict[str, Tensor]:
    """All tensors of a folder, or of the files an index names. Raises Refused for a name that stands in two files."""
    indices = [path] if path.is_file() else sorted(path.glob(f"*{INDEX}")) if path.is_dir() else []
    if len(indices) > 1:
        raise Refused(f"{path} holds several checkpoints: name one of {', '.join(i.name for i in indices)}.")
    folder = path if path.is_dir() else path.parent
    files = _indexed(indices[0]) if indices else sorted(folder.glob("*.safetensors"))
    if not files:
        raise Refused(f"{path} holds no .safetensors file.")
    found: dict[str, Tensor] = {}
    where: dict[str, Path] = {}
    for file in files:
        tensors = read_tensors(file)
        twice = next((name for name in tensors if name in where), None)
        if twice:
            raise Refused(
                f"'{twice}' stands in {where[twice].name} and in {file.name} of {folder}: name the file meant."
            )
        found |= tensors
        where |= dict.fromkeys(tensors, file)
    return found


def _indexed(index: Path) -> list[Path]:
    """The files that an index names, beside it. Raises Refused for what is no index, and for files that are missing."""
    try:
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        files = [index.parent / Path(name).name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise Refused(f"{index} is not a readable index of .safetensors files.") from None
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise Refused(f"{index} names {missing[0]}, which is not there ({len(missing)} of {len(files)} files missing).")
    return files


def _read_pickle(path: Path) -> Any:
    """The official training codes store their arguments beside the weights: a Namespace is let through as well."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for files that are cut, empty or something else
        text = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0].rstrip(".")
        if type(error).__name__ == "UnpicklingError":
            text = "it holds more than plain tensors, and nothing else is ever unpickled; save its state dict"
        raise Refused(f"{path} is not a readable checkpoint: {text}.") from None


def _bare(found: Any, path: Path) -> tuple[dict[str, Tensor], str]:
    """The state dict inside what was read, and in which group of it that was."""
    group = ""
    if isinstance(found, Mapping) and not _is_state(found):
        group = next((g for g in GROUPS if _is_state(found.get(g))), "")
        found = found.get(group)
    if not _is_state(found):
        raise Refused(f"{path} holds no state dict (name -> tensor), also not under {', '.join(GROUPS)}.")
    return _unwrapped(found), group


def _unwrapped(found: Mapping[Any, Tensor]) -> dict[str, Tensor]:
    """Without what wrappers put before every name."""
    state = {str(key): value for key, value in found.items()}
    for prefix in WRAPPERS * 2:
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def network_in(state: State) -> tuple[State, str]:
    """A network within a larger one (denoise_fn. of a diffusion, model. of a trainer) -> (its weights, where).

    Averaged weights first. As it is, with "", where a family's names stand there themselves or nowhere.
    Raises Refused where several networks could be meant.
    """
    sets = [component.target.keys for component in CONVERTERS]
    starts = {key.removesuffix(keys[0]) for keys in sets for key in state if f".{key}".endswith(f".{keys[0]}")}
    whole = sorted(s for s in starts if any(all(s + key in state for key in keys) for keys in sets))
    chosen = [""] if "" in whole or not whole else [s for s in whole if "ema" in s] or whole
    if len(chosen) > 1:
        raise Refused(f"there are several networks in it: under {' and under '.join(chosen)}. Save one of them.")
    start = chosen[0]
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}, start.rstrip(".")


def _is_state(found: Any) -> bool:
    return isinstance(found, Mapping) and len(found) > 0 and all(isinstance(v, Tensor) for v in found.values())


# ---- families ----


def family_of(state: State, name: str | None = None) -> Component:
    """The converter asked for, or the one whose keys the state has. Raises Refused when it is none or several.

    Where the keys of several are there, the family with the most: Latte's names are DiT's and one more.
    """
    asked = CONVERTERS[name] if name is not None else None
    whole = [c for c in CONVERTERS if not _missing(c, state)]
    most = max((len(c.target.keys) for c in whole), default=0)
    fitting = [c for c in whole if len(c.target.keys) == most]
    if asked in fitting:
        return asked
    if asked is not None:
        missing = _missing(asked, state)
        told = f"of the {len(asked.target.keys)} names that tell one it has no {_some(missing)}"
        if not missing:
            more = [key for key in fitting[0].target.keys if key not in asked.target.keys]
            told = f"it has more names, those of {fitting[0].name} ({_some(more)})"
        raise Refused(f"this is no {name} checkpoint: {told}. {_nearest(state)}")
    if not fitting:
        raise Refused(f"no family has these weights ({_some(list(state))}). {_nearest(state)}")
    if len(fitting) > 1:
        names = " or ".join(c.name for c in fitting)
        raise Refused(f"the weights have the names of {names}: say which with --family.")
    return fitting[0]


def _missing(component: Component, state: State) -> list[str]:
    """The names that tell a family and are not there."""
    return [key for key in component.target.keys if key not in state]


def _nearest(state: State) -> str:
    """The families of whose names the state has the largest share, in words."""
    share = {c.name: 1 - len(_missing(c, state)) / len(c.target.keys) for c in CONVERTERS}
    near = [c for c in CONVERTERS if share[c.name] == max(share.values()) > 0]
    if not near:
        return f"It has no name of any family. Known: {', '.join(CONVERTERS.names())}."
    most = [c for c in near if len(c.target.keys) == max(len(n.target.keys) for n in near)]
    names, missing = " or ".join(c.name for c in most), _missing(most[0], state)
    if not missing:
        return f"Its {len(state)} weights have the names of {names}: --family {most[0].name}."
    has, all_of = len(most[0].target.keys) - len(missing), len(most[0].target.keys)
    return f"The nearest is {names}, of whose {all_of} names it has {has}, not {_some(missing)}."


def _some(keys: Sequence[str]) -> str:
    """The first three, and how many more: `'a', 'b', 'c' (and 4 more)`."""
    more = f" (and {len(keys) - 3} more)" if len(keys) > 3 else ""
    return ", ".join(f"'{key}'" for key in keys[:3]) + more


def make_converter(component: Component, settings: Mapping[str, Any]) -> Converter:
    """The converter with what the command line tells it. Raises Refused for a value that does not fit."""
    for key, value in settings.items():
        refusal = refuses(component.settings[key].annotation, value)
        if refusal:
            raise Refused(f"{key} is {value!r}: it must be {refusal}.")
    return component.build(settings)


@contextmanager
def reading(what: str, family: str):
    """Whatever a converter stumbles over in foreign weights becomes one line."""
    try:
        yield
    except Refused:
        raise
    except KeyError as error:
        raise Refused(f"{what} is no {family} checkpoint: it has no {error}.") from None
    except (ValueError, RuntimeError, IndexError, TypeError, AttributeError) as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise Refused(f"{what} does not read as a {family} checkpoint: {text}") from None


# ---- from official ----


def configuration(described: Description, name: str, overrides: Sequence[str]) -> Config:
    """The complete configuration of a described checkpoint. Raises ConfigError for overrides that do not fit."""
    tree = {"name": name, **plain(described.nodes)}
    tree.setdefault("data", stand_in(described))
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / f"{name}.yaml"
        draft.write_text(yaml.safe_dump(tree, sort_keys=False))
        return load(draft, overrides)


def snapshot(made: Plan, parts: Mapping[str, State], what: str, told: Mapping[str, Any]) -> Snapshot:
    """A checkpoint of step 0 with these weights, and with what lies aside.

    Raises Refused naming the first keys and shapes that differ.
    """
    beside = {key: value.contiguous() for key, value in parts.get(ASIDE, {}).items()}
    used = {part: state for part, state in parts.items() if part != ASIDE}
    tensors = {f"{part}.{key}": value for part, state in used.items() for key, value in state.items()}
    own = made.diffuser.state_dict()
    differing = [f"{k} is missing" for k in own if k not in tensors] + [
        f"{k} is unknown" for k in tensors if k not in own
    ]
    differing += [
        f"{k} is {tuple(tensors[k].shape)}, expected {tuple(own[k].shape)}"
        for k in own
        if k in tensors and own[k].shape != tensors[k].shape
    ]
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        raise Refused(
            f"{what} does not fit {made.config.components['backbone']['name']}: {'; '.join(differing[:3])}{more}."
        )
    taken = first_checkpoint(made.config, {key: tensors[key].to(own[key].dtype) for key in own}, told)
    taken.tensors |= {ASIDE: beside} if beside else {}
    return taken


def first_checkpoint(config: Config, weights: State, told: Mapping[str, Any]) -> Snapshot:
    """A checkpoint of step 0 whose raw and averaged weights are these; `told` says where they came from."""
    state = {
        "seed": config.seed, "numbers": {}, "bad": {}, "pending": [], "nonfinite": 0, "scaler": None,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "device": "cpu", "world": 1,
        "converted": dict(told),
    }  # fmt: skip
    return Snapshot({"model": dict(weights), "ema": dict(weights), "optimizer": {}}, state)


def check_width(made: Plan, described: Description, what: str) -> None:
    """Raises Refused when the objective wants another head than the checkpoint has."""
    asked = made.grid.c * made.diffuser.objective.outputs
    if asked != described.out_channels:
        name = made.config.components["objective"]["name"]
        raise Refused(f"{what} answers {described.out_channels} channels and objective {name} wants {asked}.")


def stand_in(described: Description) -> dict[str, Any]:
    """Data of the shapes a checkpoint was trained on, when the data themselves are elsewhere."""
    nodes = plain(described.nodes)
    tokenizer = build("tokenizer", nodes.get("tokenizer", "pixels"))
    video = tokenizer.decode(torch.empty(1, *described.grid, device="meta")).shape[1:]
    wiring = {"width": nodes["backbone"].get("dim", 0), "num_classes": described.num_classes, "grid": described.grid}
    with torch.device("meta"):
        conditioner = build("conditioner", nodes.get("conditioner", "none"), **wiring)
    texts = "text_tokens" in getattr(conditioner, "reads", ())
    beside = {"texts": [conditioner.spec.length, conditioner.spec.tokens]} if texts else {}
    entries = {name: list(shape) for name, shape in getattr(conditioner, "entries", {}).items()}
    beside |= {"entries": entries} if entries else {}
    return {"name": "stand_in", "num_classes": described.num_classes, "shape": list(video), **beside}


# ---- to official ----


def describe_run(made: Plan) -> Description:
    """What a run's model is, in the words of a converter."""
    out = made.grid.c * made.diffuser.objective.outputs
    return Description(dict(made.config.components), made.grid, out, made.dataset.num_classes)


def lying_aside(checkpoint: Path) -> dict[str, Tensor]:
    """What the official file had and the network does not use; a run that was trained on has none of it."""
    file = checkpoint / f"{ASIDE}.safetensors"
    return load_checkpoint(checkpoint, (ASIDE,)).tensors[ASIDE] if file.is_file() else {}


def to_official(
    made: Plan, tensors: State, component: Component, told: Mapping[str, Any], aside: State | None = None
) -> dict[str, Tensor]:
    """A run's weights under the official names; `told` is what weights do not tell and the configuration does not say.

    Raises Refused when the model is none of this family, with those that it is of.
    """
    try:
        return _under_names(made, tensors, component, told, aside)
    except Refused as error:
        able = [c.name for c in CONVERTERS if c is not component and _can_be(made, tensors, c, aside)]
        network = made.config.components["backbone"]["name"]
        hint = f"It is a {network}, which can be written with --family {' or '.join(able)}." if able else ""
        raise Refused(f"{str(error).rstrip('.')}. {hint}".rstrip()) from None


def _can_be(made: Plan, tensors: State, component: Component, aside: State | None) -> bool:
    """Whether a run's weights can be written under the names of this family."""
    try:
        return bool(_under_names(made, tensors, component, {}, aside))
    except Refused:
        return False


def _under_names(
    made: Plan, tensors: State, component: Component, told: Mapping[str, Any], aside: State | None
) -> dict[str, Tensor]:
    described = describe_run(made)
    slots = made.config.components
    conditions = [slots["conditioner"], *slots["conditioner"].get("parts", [])]
    known = {key: value for node in [*conditions, slots["positions"], slots["backbone"]] for key, value in node.items()}
    known |= {"num_classes": described.num_classes or None, "sizes": made.grid[1:]}
    size = slots["tokenizer"].get("size")
    known |= {"patch": size} if isinstance(size, (list, tuple)) else {}
    converter = make_converter(component, {**told, **{k: known[k] for k in component.settings if k in known}})
    parts = {
        part: {k.removeprefix(f"{part}."): v for k, v in tensors.items() if k.startswith(f"{part}.")}
        for part in ("backbone", "conditioner")
    } | ({ASIDE: aside} if aside else {})
    with reading("the model", component.name):
        official = converter.to_official(parts, described)
        meant = converter.describe(official)
    for slot, node in plain(meant.nodes).items():
        lie = "" if slot in ("data", "objective") else difference(slot, plain(slots[slot]), node)
        if lie:
            raise Refused(f"{lie.format(component.name)}: it would lie.")
    return official


def difference(key: str, have: Any, meant: Any) -> str:
    """Where a complete node is not what a sparse one means, in words, or nothing."""
    if isinstance(have, Mapping):
        meant = {"name": meant} if isinstance(meant, str) else meant
        found = (difference(f"{key}.{k}", have.get(k), value) for k, value in meant.items())
    elif isinstance(have, list) and isinstance(meant, list) and len(have) == len(meant):
        found = (difference(f"{key}.{i}", a, b) for i, (a, b) in enumerate(zip(have, meant)))
    else:
        return "" if have == meant else f"{key} is {have}, and a {{}} checkpoint means {meant}"
    return next((words for words in found if words), "")
