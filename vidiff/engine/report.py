"""One self-contained page about a run: what was run, its curves, its samples. No network needed to read it."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidiff.engine.log import duration, read_journal
from vidiff.errors import Refused

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}
img{max-width:100%}img.pixels{image-rendering:pixelated}pre{background:#f6f6f6;padding:1rem;overflow:auto;font-size:13px}
"""


def write_report(run: Path) -> Path:
    """Write `report/index.html` and `report/curves.png` from what the run folder holds. Raises Refused."""
    journal = run / "metrics.jsonl"
    if not journal.is_file():
        raise Refused(f"{run} has no metrics.jsonl: it is not a run, or nothing was logged yet.")
    events = read_journal(journal)
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    curves = plot(folder / "curves.png", events)
    page = folder / "index.html"
    page.write_text(_page(run, events, curves), encoding="utf-8")
    return page


def series(events: Sequence[dict[str, Any]], tag: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one tag."""
    points = [(e["step"], e[tag]) for e in events if tag in e]
    return [s for s, _ in points], [v for _, v in points]


def plot(file: Path, events: Sequence[dict[str, Any]]) -> Path:
    """Loss (training, validation), loss by time, gradient norm and learning rate over steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_time = sorted({k for e in events for k in e if k.startswith("train/loss_by_time/")})
    panels = (
        ("loss", ["train/loss", "val/loss", "val/loss_raw"], "log"),
        ("error of the network by time t", by_time, "log"),
        ("gradient norm", ["train/grad_norm"], "log"),
        ("learning rate", ["train/lr"], "linear"),
    )
    figure, axes = pyplot.subplots(2, 2, figsize=(11, 7), layout="constrained")
    for axis, (title, tags, scale) in zip(axes.flat, panels, strict=True):
        for tag in tags:
            steps, values = series(events, tag)
            if steps:
                axis.plot(steps, values, label=tag.removeprefix("train/loss_by_time/"), linewidth=1.2)
        axis.set(title=title, xlabel="step", yscale=scale)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=8)
    partial = file.with_name(f".{file.name}")
    figure.savefig(partial, dpi=110, format="png")
    pyplot.close(figure)
    partial.replace(file)
    return file


def _page(run: Path, events: Sequence[dict[str, Any]], curves: Path) -> str:
    config = (run / "config.yaml").read_text(encoding="utf-8")
    sections = [
        f"<h1>{html.escape(run.name)}</h1>",
        _facts(run, events),
        "<h2>Curves</h2>" + _image(curves),
        *_samples(run),
        f"<h2>Configuration</h2><pre>{html.escape(config)}</pre>",
    ]
    head = f"<meta charset=utf-8><title>{html.escape(run.name)}</title><style>{STYLE}</style>"
    return f"<!doctype html><html><head>{head}</head><body>{''.join(sections)}</body></html>\n"


def _facts(run: Path, events: Sequence[dict[str, Any]]) -> str:
    status = _json(run / "status.json")
    environment = _json(run / "env.json")
    rows = [("status", f"{status.get('status', '?')} at step {status.get('step', '?')}")]
    if "seconds" in status:
        rows.append(("time of the last session", duration(status["seconds"])))
    for tag in ("train/loss", "val/loss", "perf/steps_per_s", "perf/clips_per_s", "mem/peak_gib"):
        steps, values = series(events, tag)
        if steps:
            rows.append((f"last {tag}", f"{values[-1]:.4g}"))
    rows += [(key, str(environment[key])) for key in ("revision", "device_name", "threads") if key in environment]
    cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in rows)
    return f"<table>{cells}</table>"


def _samples(run: Path) -> list[str]:
    folder = run / "samples"
    found = []
    for record in sorted(folder.glob("*/samples.json")):
        told = _json(record)
        made = told.get("sampler", {})
        title = f"Samples: {made.get('name')}, {told.get('evaluations')} evaluations, seed {told.get('seed')}"
        names = ("compare.gif", "compare.png", "grid.gif")
        pictures = [record.parent / n for n in names if (record.parent / n).is_file()]
        captions = {"compare.gif": "held-out clips above, generated below", "compare.png": "the same as frames"}
        figures = [f"<p>{captions.get(p.name, '')}</p>{_image(p)}" for p in pictures]
        found.append(f"<h2>{html.escape(title)}</h2>{''.join(figures)}")
    during = sorted(folder.glob("step_*.gif"))
    if during:
        chosen = [during[round(i * (len(during) - 1) / 3)] for i in range(4)] if len(during) > 4 else during
        figures = [f"<p>{p.stem}</p>{_image(p)}" for p in dict.fromkeys(chosen)]
        found.append(f"<h2>Samples during training</h2>{''.join(figures)}")
    return found


def _image(file: Path) -> str:
    kind = file.suffix.lstrip(".")
    data = base64.b64encode(file.read_bytes()).decode()
    pixels = "" if file.name == "curves.png" else " class=pixels"
    return f'<img{pixels} alt="{html.escape(file.name)}" src="data:image/{kind};base64,{data}">'


def _json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
