"""compare: one table and one figure across DVC experiments, git revisions and the workspace."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.app.revisions import Result, differing, read_result
from pipeline.report.figures.comparison import comparison
from pipeline.report.figures.rendering import markdown, write_table
from pipeline.report.figures.words import interval, name_of, nearest_to_one, number, p_value
from pipeline.support.errors import InputError
from pipeline.support.files import new_file

LISTS = ("methods", "baselines")  # which methods ran: seen in the rows, so not a difference to name


def main(names: list[str], out: str, only: list[str]) -> None:
    if len(set(names)) < len(names):
        raise InputError(f"{', '.join(names)} names something twice: name each once")
    results = [read_result(name) for name in names]
    different = list(differing(results))
    keys = [key for key in different if key not in LISTS] or different
    rows = gather(results, keys, only)
    table = comparison_table(rows, keys, results)
    folder = Path(out)
    write_table(folder, "comparison", table)
    with new_file(folder / "results.csv") as file:
        rows.write_csv(file)
    comparison(folder, rows, ", ".join(keys) or "experiment", caption(results))
    print(markdown(table))
    print(f"{out}: comparison.md, .csv, .tex, .svg, .png, and the numbers in full in results.csv")


def number_of(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def gather(results: list[Result], keys: list[str], only: list[str]) -> pl.DataFrame:
    """Return one row per experiment and method: experiment, x, raw_* (at ±1 or nearest) and the
    columns of equal_cost.csv.

    `x` is the value of the one parameter that differs, if it is a number in all of them and each
    has its own; else null.
    """
    places = (
        [number_of(result.params.get(keys[0])) for result in results]
        if len(keys) == 1
        else [None] * len(results)
    )
    if None in places or len(set(places)) < len(places):
        places = [None] * len(results)
    found = []
    for result, place in zip(results, places, strict=True):
        one = result.arms.filter(pl.col("coefficient") == nearest_to_one(result.arms))
        raw = {row["method"]: row for row in one.to_dicts()}
        for row in result.equal_cost.to_dicts():
            if only and row["method"] not in only:
                continue
            at_one = {
                f"raw_{name}": raw[row["method"]][name]
                for name in ("coefficient", "target_effect", "ci_low", "ci_high")
            }
            found.append({"experiment": result.name, "x": place} | row | at_one)
    if not found:
        raise InputError(
            f"none of the experiments has a method called {', '.join(only)}: take ids of `methods` "
            "or `baselines`"
        )
    return pl.DataFrame(found, infer_schema_length=None).with_columns(pl.col("x").cast(pl.Float64))


def comparison_table(rows: pl.DataFrame, keys: list[str], results: list[Result]) -> pl.DataFrame:
    params = {result.name: result.params for result in results}
    return pl.DataFrame([
        {
            "Experiment": row["experiment"],
            **{key: str(params[row["experiment"]].get(key, "–")) for key in keys},
            "Method": name_of(row["method"]),
            "Effect at ±1 (or nearest)": number(row["raw_target_effect"]),
            "Effect at equal cost": number(row["target_effect"]),
            "95 % interval": interval(row),
            "c": f"{row['used']:.2f}" if row["calibrated"] else "no dose",
            "SD over seeds": number(row["seed_sd"]),
            "Seeds": str(row["n_seeds"]),
            "Dilemmas": str(row["n_dilemmas"]),
            "Δ NLL": number(row["delta_nll"]),
            "p (clustered)": p_value(row["p_clustered"]),
        }
        for row in rows.to_dicts()
    ])  # fmt: skip


def caption(results: list[Result]) -> str:
    """Return what the experiments share, or how they differ, in the words of every other
    caption.
    """

    def of(key: str) -> str:
        values = (result.params[key] for result in results)
        return " / ".join(
            dict.fromkeys(", ".join(map(str, v)) if isinstance(v, list) else str(v) for v in values)
        )

    world = (
        " (synthetic)"
        if any("reference" in (r.params["model"], r.params["evalset"]) for r in results)
        else ""
    )
    dilemmas = " / ".join(
        dict.fromkeys(str(result.equal_cost["n_dilemmas"][0]) for result in results)
    )
    return (
        f"{of('model')}{world}, {of('behaviour')} on {of('evalset')}; n = {dilemmas} dilemmas; "
        f"seeds {of('seeds')}"
    )
