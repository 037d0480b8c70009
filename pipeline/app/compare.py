"""compare: one table and one figure across DVC experiments, git revisions and the workspace."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.app.revisions import Result, differing, read_result
from pipeline.report import columns
from pipeline.report.columns import Cell, Columns, Row, show
from pipeline.report.figures.comparison import comparison
from pipeline.report.figures.look import Sheet
from pipeline.support.errors import InputError
from pipeline.support.files import write_text
from pipeline.support.formats import NONE, markdown, p_value, percent, write_table

LISTS = ("methods", "baselines")  # which methods ran: seen in the rows, so not a difference to name
WHAT = ("model", "evalset")
KNOWN = "Dilemmas in which the base prefers the target's side (%)"
FEW = 3  # so many differing parameters stand in each row; more stand in a table of their own
EFFECT: Columns = {
    "Effect": show("target_effect"),
    "95 % interval": columns.interval(),
    "SD over seeds": show("seed_sd"),
}


def effect(row: Row) -> str:
    """Return the effect of a row with its interval."""
    return f"{EFFECT['Effect'](row)} {EFFECT['95 % interval'](row)}"


def main(names: list[str], out: str, only: list[str]) -> None:
    if len(set(names)) < len(names):
        raise InputError(f"{', '.join(names)} names something twice: name each once")
    results = [read_result(name) for name in names]
    different = differing(results)
    keys = [key for key in different if key not in LISTS] or different
    rows = gather(results, keys, only)
    folder = Path(out)
    if len(keys) > FEW:
        print(f"{len(keys)} parameters differ: {out}/parameters.md")
        values = {r.name: [str(r.params.get(key, NONE)) for key in keys] for r in results}
        write_table(folder, "parameters", pl.DataFrame({"Parameter": keys} | values))
        keys = [key for key in WHAT if key in keys]
    table = comparison_table(rows, keys, results)
    write_table(folder, "comparison", table)
    write_table(folder, "across", across(rows, log_odds_first(results)))
    write_text(folder / "results.csv", rows.write_csv())
    axis = ", ".join(keys) or "experiment"
    comparison(Sheet(folder, caption(results), log_odds_first(results)), rows, axis)
    print(markdown(table))
    print(
        f"{out}: comparison.md, .csv, .tex, .svg, .png, across.md with a column per experiment, "
        "and the numbers in full in results.csv"
    )


def gather(results: list[Result], keys: list[str], only: list[str]) -> pl.DataFrame:
    """Return a row per experiment and method: experiment, x, equal_cost.csv.

    `x` is the value of the one parameter that differs, if each has a number of its own; else null.
    """
    values = [result.params.get(keys[0]) if len(keys) == 1 else None for result in results]
    numeric = all(type(value) in (int, float) for value in values)
    has_axis = numeric and len(set(values)) == len(values)
    parts = []
    for result, value in zip(results, values, strict=True):
        x = pl.lit(value if has_axis else None, pl.Float64)
        about = pl.lit(result.name).alias("experiment"), x.alias("x")
        parts.append(result.equal_cost.select(*about, pl.all()))
    gathered = pl.concat(parts, how="diagonal_relaxed")
    if only:
        gathered = gathered.filter(pl.col("method").is_in(only))
    if gathered.is_empty():
        said = f"none of the experiments has a method called {', '.join(only)}"
        raise InputError(f"{said}: take ids of `methods` or `baselines`")
    return gathered


def log_odds_first(results: list[Result]) -> bool:
    """Say whether effects in log-odds stand first: where one of the models is real."""
    return any(result.params["model"] != "reference" for result in results)


def comparison_table(rows: pl.DataFrame, keys: list[str], results: list[Result]) -> pl.DataFrame:
    params = {result.name: result.params for result in results}

    def value_of(key: str) -> Cell:
        return lambda row: str(params[row["experiment"]].get(key, NONE))

    return columns.build(rows, {
        "Experiment": show("experiment", str),
        **{key: value_of(key) for key in keys},
        "Method": lambda row: columns.method(row) + marks(row),
        **columns.twice(EFFECT, log_odds_first(results)),
        "KL at +c / −c": columns.cost,
        "Raw +c / −c": columns.raw,
        "Seeds": show("n_seeds", str),
        "Dilemmas": show("n_dilemmas", str),
        "Δ NLL": show("delta_nll"),
        "p (clustered)": show("p_clustered", p_value),
    })  # fmt: skip


def marks(row: Row) -> str:
    """Return the mark of a row whose sign the probes do not decide, else nothing."""
    return columns.UNDECIDED if row.get("sign_decided") is False else ""


def across(rows: pl.DataFrame, log_odds_first: bool) -> pl.DataFrame:
    """Return a row per method, a column per experiment: the effect and its 95 % interval.

    The last row says in how many dilemmas the untouched model prefers the target's side.
    """
    write = columns.nats(effect) if log_odds_first else effect
    said = [
        {
            "experiment": row["experiment"],
            "Method": columns.method(row),
            "said": write(row) + marks(row) + columns.missed(row),
        }
        for row in rows.to_dicts()
    ]
    if "base_share" in rows.columns:
        shares = rows.group_by("experiment", maintain_order=True).agg(pl.col("base_share").first())
        said += [{"experiment": n, "Method": KNOWN, "said": percent(s)} for n, s in shares.rows()]
    wide = pl.DataFrame(said).pivot(
        "experiment", index="Method", values="said", maintain_order=True
    )
    return wide.fill_null(NONE)


def caption(results: list[Result]) -> str:
    """Return what the experiments share, or how they differ, in the words of every caption."""

    def distinct(values: Iterable[Any]) -> str:
        words = (", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in values)
        return " / ".join(dict.fromkeys(words))

    def of(key: str) -> str:
        return distinct(result.params[key] for result in results)

    places = {result.params[key] for result in results for key in ("model", "evalset")}
    world = " (synthetic)" if "reference" in places else ""
    n = distinct(result.equal_cost["n_dilemmas"][0] for result in results)
    study = f"{of('model')}{world}, {of('behaviour')} on {of('evalset')}"
    return f"{study}; n = {n} dilemmas; seeds {of('seeds')}"
