"""bench-page: reports/bench/<device>/<shape>-<dtype>.json -> reports/bench/README.md."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.bench.ratios import Figure
from pipeline.support.errors import InputError
from pipeline.support.files import read_json, visible, write_text
from pipeline.support.formats import NONE, markdown

HEAD = """# Speed and memory

Made by `python -m pipeline bench-page` from the files that `python -m pipeline bench --out
reports/bench` writes. A figure is a ratio: its median over rounds of runs in turn (A B C A B C ...)
in one process, with the smallest and the largest. On a CPU the time is what the process itself
ran, so that other work counts little. What misses its aim is **bold**. Shapes other than the
bundled model have random weights.
Memory counts what torch allocates over the base model. peft has a LoRA of the same rank on the same
modules; it scores every text in full at every coefficient, and trains on both signs' rows one after
the other. The shares are of one run in which every part is timed by itself.
"""
SIZES = (
    "dilemmas", "tokens_per_prompt", "coefficients", "rows_per_pass", "pairs_per_step", "rank",
    "repeats", "threads", "torch", "commit",
)  # fmt: skip


def main(folder: str) -> None:
    write_text(Path(folder) / "README.md", page(Path(folder)))


def page(folder: Path) -> str:
    """Return the Markdown page of all files; InputError where there are none."""
    devices = sorted(path for path in folder.glob("*") if path.is_dir())
    runs = {device.name: list(map(read_json, visible(device, "*.json"))) for device in devices}
    if not any(runs.values()):
        raise InputError(f"{folder} holds no measurements: run `python -m pipeline bench --out`")
    return "\n".join([HEAD, *(section(name, found) for name, found in runs.items() if found)])


def section(device: str, runs: list[dict[str, Any]]) -> str:
    """Return one device's tables, a column per run."""
    heads = [f"{run['shape']}, {run['dtype']}" for run in runs]
    named = [{row["name"]: read(row) for row in run["figures"]} for run in runs]
    rows = [
        {"measure": name, "aim": first.aim or NONE}
        | {head: cell(own.get(name)) for head, own in zip(heads, named, strict=True)}
        for name, first in named[0].items()
    ]
    sizes = [
        {"": name.replace("_", " ")}
        | {head: str(run[name]) for head, run in zip(heads, runs, strict=True)}
        for name in SIZES
    ]
    parts = [part for kind in runs[0]["breakdown"] for part in (shares(kind, heads, runs), "")]
    return "\n".join([f"## {device}\n", table(rows), *parts, "Sizes:\n", table(sizes)])


def shares(kind: str, heads: list[str], runs: list[dict[str, Any]]) -> str:
    """Return the table of what one kind of work spends its time on, largest first."""
    found = [run["breakdown"][kind] for run in runs]
    names = dict.fromkeys(name for each in found for name in each["shares"])
    rows = [
        {kind: name}
        | {
            head: f"{100 * each['shares'].get(name, 0):.0f} %"
            for head, each in zip(heads, found, strict=True)
        }
        for name in names
    ]
    for name in ("operations", "kernels", "transfers", "transfer_ms"):
        counts = {head: each[name] for head, each in zip(heads, found, strict=True)}
        if any(count is not None for count in counts.values()):
            rows.append({kind: name.replace("_", ", ")} | {k: str(v) for k, v in counts.items()})
    return table(rows)


def table(rows: list[dict[str, str]]) -> str:
    return markdown(pl.DataFrame(rows))


def read(row: dict[str, Any]) -> Figure:
    return Figure(**{name: value for name, value in row.items() if name != "met"})


def cell(figure: Figure | None) -> str:
    """Return a median with its range, in bold where the aim is missed."""
    if figure is None or figure.value is None:
        return (figure and figure.why) or NONE
    text = f"**{figure.value:.2f}**" if figure.met is False else f"{figure.value:.2f}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} ({figure.low:.2f} to {figure.high:.2f})"
