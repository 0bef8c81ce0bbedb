"""What a reader must know before believing a table: what is measured, what ± means, what is not equal."""

from __future__ import annotations

from collections.abc import Sequence

from vidiff.engine.ablate.folders import Folder
from vidiff.engine.ablate.grid import MEASURE, GridFile, lookup
from vidiff.engine.ablate.results import DIFFERENCE, Result, Row, tags_of
from vidiff.registry import did_you_mean


def legend(grid: GridFile, rows: Sequence[Row], results: Sequence[Result]) -> str:
    """What every ± means."""
    words = [
        "Differences are to the baseline "
        + ("with the same values on the other axes, " if _partial(grid) else f"({rows[0].baseline.label}), ")
        + "seed by seed: all cells share data order, noise, validation panel and sample seeds.",
        "± sd is the standard deviation over seeds (n − 1)."
        if len(grid.seeds) > 1
        else "One seed says nothing about how far another training would end.",
    ]
    clips = {len(row.clip_differences) for row in rows if row.clip_differences}
    if clips:
        words.append(
            f"± se is the standard error of the mean difference over the {max(clips)} clips (or samples) of the panel, "
            "averaged over seeds first: how far another panel would move it, not another training."
        )
    return " ".join(words)


def remarks(folder: Folder, results: Sequence[Result], rows: Sequence[Row]) -> list[str]:
    """What a reader must know before believing the table."""
    grid, notes = folder.grid, []
    common = grid.metric.startswith(f"val/{MEASURE}")
    if common:
        measure = results[0].cell.config.callbacks[MEASURE]
        levels = ", ".join(f"{level:g}" for level in measure["levels"])
        notes.append(
            f"`{grid.metric}` is E|x0_hat − x0|² of the averaged weights on {measure['num']} held-out clips with fixed "
            f"noise at log-SNR {levels}, conditional and without guidance, computed the same way for every cell."
        )
    if len(different(results, "objective")) > 1:
        notes.append(
            "The objectives differ, so their losses (`train/loss`, `val/loss`) are numbers of different things and "
            "are not compared." + ("" if common or grid.metric == DIFFERENCE or "loss" not in grid.metric else
            f" **`{grid.metric}` is such a loss: this table does not rank objectives.** Use `metric: val/{MEASURE}`.")
        )  # fmt: skip
    for slot, why in (("data", "the clips"), ("tokenizer", "the latent the error is measured in")):
        if common and len(different(results, slot)) > 1:
            notes.append(f"`{slot}` differs between cells, and with it {why}: errors are not of the same quantity.")
    if common and len({str(lookup(r.cell.config.to_dict(), "objective.noise")) for r in results}) > 1:
        notes.append("`objective.noise` differs: every model is measured with the kind of noise it was trained on.")
    if grid.metric == DIFFERENCE:
        notes.append(
            f"`{DIFFERENCE}` is the rms distance (pixels in [0, 1]) to the baseline's sample of the same seed. For "
            "samplers of the same ODE it is their error, if the baseline is fine enough; for stochastic ones and "
            "for other guidance it is no measure of quality. Pixels are bytes: below about 0.002 it is their rounding."
        )
    if trainings(results) < len({r.cell.arm for r in results}):
        notes.append(
            "Arms that differ in the sampler or guidance only share one training and are sampled from the same weights."
        )
    flops = [row.cost.training_flops for row in rows if row.cost]
    if flops and max(flops) > 1.02 * min(flops):
        notes.append(
            "Arms have equal steps, not equal compute: training FLOPs per clip differ up to "
            f"{max(flops) / min(flops):.2f} times."
        )
    notes += _unequal(results)
    moved = folder.moved([r.cell for r in results])
    if moved:
        keys = ", ".join(f"`{key}`" for key in dict.fromkeys(key for keys in moved.values() for key in keys))
        notes.append(f"{len(moved)} runs were trained with other values of {keys} than the base has now.")
    unfinished = sum(not r.finished for r in results)
    if unfinished:
        notes.append(f"{unfinished} of {len(results)} cells are not finished and not in the table's means.")
    if not any(row.values for row in rows) and any(r.finished for r in results):
        known = tags_of(results)
        notes.append(
            f"No cell has recorded '{grid.metric}'.{did_you_mean(grid.metric, known)} There is {', '.join(known)}."
        )
    return notes


def _unequal(results: Sequence[Result]) -> list[str]:
    """Where bits may differ: threads, devices, revisions."""
    notes = []
    for what, values in (
        ("CPU threads", {r.threads for r in results if r.threads}),
        ("devices", {r.device for r in results if r.device}),
        ("revisions of the code", {r.revision for r in results if r.revision}),
    ):
        if len(values) > 1:
            notes.append(
                f"Cells ran with different {what} ({', '.join(map(str, sorted(values)))}): bits depend on them."
            )
    return notes


def different(results: Sequence[Result], slot: str) -> list[str]:
    """The different settings of a slot among the cells."""
    return list(dict.fromkeys(str(r.cell.config.components[slot]) for r in results))


def trainings(results: Sequence[Result]) -> int:
    """How many arms were trained for themselves."""
    return len({r.cell.run for r in results if r.cell.seed == results[0].cell.seed})


def _partial(grid: GridFile) -> bool:
    return bool(grid.baseline) and len({grid.baseline_of(arm) for arm in grid.arms()}) > 1
