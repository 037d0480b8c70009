"""DailyDilemmas (arXiv 2410.02683, CC BY 4.0): moral dilemmas of everyday life, from the hub or
from files.

Two schemas are read: the authors' CSV, whose rows hold a value list and its place in each
framework, and the hub's three tables (Dilemmas_with_values_aggregated, Action_to_party_to_value,
Values). Of the hub's values those of the party "You" count.
"""

import ast
from pathlib import Path

import polars as pl
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from pipeline.scoring.wording import dilemma_prompt
from pipeline.study.sections import DailyDilemmasParams
from pipeline.support.errors import InputError
from pipeline.support.schemas import add_labels

FRAMEWORKS = {
    "wvs": "WVS",
    "mft": "MFT",
    "virtue": "Virtue",
    "emotion": "Emotion",
    "maslow": "Maslow",
}
AUTHORS = ["idx", "dilemma_situation", "action_type", "action", "values_names", *FRAMEWORKS]
HUB_ROWS = ["dilemma_idx", "dilemma_situation", "action_type", "action"]
HUB_PARTIES = ["dilemma_idx", "action_type", "party", "value"]
HUB_VALUES = ["value", *FRAMEWORKS.values()]


def build_items(section: DailyDilemmasParams, _behaviour: str) -> pl.DataFrame:
    """Return the items; the behaviour decides nothing here, its target label is read by the
    effects.
    """
    tables = read_tables(locate(section.source, section.revision))
    authors = find(tables, AUTHORS)
    rows = from_authors(*authors) if authors else from_hub(tables, section.source)
    ids = rows["dilemma_id"].unique(maintain_order=True)
    if section.max_dilemmas is not None:
        keep = sorted(ids.to_list(), key=lambda name: (len(name), name))[: section.max_dilemmas]
        rows = rows.filter(pl.col("dilemma_id").is_in(keep))
    return add_labels(rows.drop("carried"), rows["carried"].to_list())


def locate(source: str, revision: str) -> Path:
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(
            snapshot_download(
                source,
                repo_type="dataset",
                revision=revision,
                allow_patterns=["*.csv", "*.parquet"],
            )
        )
    except (
        HFValidationError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        ConnectionError,
    ):
        raise InputError(
            f"evaluation set {source!r} is neither a folder nor reachable on the hub: connect, "
            "or set evalsets.daily_dilemmas.source to a folder with its CSV or parquet files"
        ) from None


def read_tables(folder: Path) -> dict[str, pl.DataFrame]:
    tables = {}
    for file in sorted([*folder.rglob("*.csv"), *folder.rglob("*.parquet")]):
        try:
            found = (
                pl.read_csv(file, infer_schema=False)
                if file.suffix == ".csv"
                else pl.read_parquet(file)
            )
        except (pl.exceptions.PolarsError, OSError) as error:
            said = str(error).partition("\n")[0]
            raise InputError(
                f"{file} cannot be read as a table ({said}): restore or correct it"
            ) from None
        if found.is_empty():
            raise InputError(f"{file} holds no rows: restore it, or take it out of the folder")
        tables[str(file)] = found
    if not tables:
        raise InputError(
            f"{folder} holds no CSV or parquet file: point evalsets.daily_dilemmas.source at "
            "DailyDilemmas"
        )
    return tables


def find(tables: dict[str, pl.DataFrame], columns: list[str]) -> tuple[str, pl.DataFrame] | None:
    """Return the first table with all the columns, joined with its further parts of the same
    columns.
    """
    matching = {name: table for name, table in tables.items() if set(columns) <= set(table.columns)}
    if not matching:
        return None
    for name, table in matching.items():
        if odd := next((column for column in columns if table.schema[column].is_nested()), None):
            raise InputError(
                f"{name}: column {odd!r} is {table.schema[odd]}, must be text: write lists as "
                "text, e.g. ['honesty']"
            )
    parts = [
        table.select(pl.col(column).cast(pl.String) for column in columns)
        for table in matching.values()
    ]
    return next(iter(matching)), pl.concat(parts)


def required(
    tables: dict[str, pl.DataFrame], columns: list[str], source: str
) -> tuple[str, pl.DataFrame]:
    if found := find(tables, columns):
        return found
    wanted = [AUTHORS, columns]  # it may be meant for either schema
    name, needed, missing = min(
        (
            (name, schema, [column for column in schema if column not in table.columns])
            for name, table in tables.items()
            for schema in wanted
        ),
        key=lambda found: len(found[2]) / len(found[1]),
    )
    raise InputError(
        f"{source}: no table has the columns {', '.join(needed)}; the nearest, {name}, lacks "
        f"{', '.join(missing)}: "
        "add or rename them"
    )


def parse_list(text: str | None, file: str, column: str) -> list[str | None]:
    """Read a stringified Python list of strings, in which pandas has written missing ones as
    nan.
    """
    try:
        found = ast.literal_eval((text or "").replace(", nan", ", None").replace("[nan", "[None"))
        if not isinstance(found, list) or not all(isinstance(x, str | None) for x in found):
            raise ValueError
    except (ValueError, SyntaxError):
        raise InputError(
            f"{file}: column {column!r} holds {text!r}, must be a list of strings: write it as "
            "['honesty', 'trust']"
        ) from None
    return found


def normalise(value: str) -> str:
    return " ".join(value.lower().split())


def check_action_type(file: str, action_type: str | None) -> None:
    if action_type not in ("to_do", "not_to_do"):
        raise InputError(
            f"{file}: column 'action_type' holds {action_type!r}, must be to_do or not_to_do: "
            "correct it"
        )


def item_columns(
    file: str,
    dilemma: str | None,
    situation: str | None,
    action_type: str | None,
    action: str | None,
) -> dict:
    for column, cell in {
        "dilemma": dilemma,
        "dilemma_situation": situation,
        "action": action,
    }.items():
        if not (cell or "").strip():
            raise InputError(
                f"{file}: a row of dilemma {dilemma!r} has an empty {column!r}: fill it in, or "
                "take the dilemma out"
            )
    check_action_type(file, action_type)
    prompt = dilemma_prompt(str(situation), str(action))
    return {
        "item_id": f"{dilemma}-{action_type}",
        "dilemma_id": dilemma,
        "action_type": action_type,
        "prompt": prompt,
    }


def from_authors(file: str, table: pl.DataFrame) -> pl.DataFrame:
    rows = []
    for row in table.iter_rows(named=True):
        names = [normalise(v) for v in parse_list(row["values_names"], file, "values_names") if v]
        carried = [f"Value/{name}" for name in names]
        for column, framework in FRAMEWORKS.items():
            carried += [
                f"{framework}/{v}"
                for v in dict.fromkeys(parse_list(row[column], file, column))
                if v
            ]
        about = item_columns(
            file, row["idx"], row["dilemma_situation"], row["action_type"], row["action"]
        )
        rows.append({**about, "values": names, "carried": carried})
    return frame(rows)


def from_hub(tables: dict[str, pl.DataFrame], source: str) -> pl.DataFrame:
    file, dilemmas = required(tables, HUB_ROWS, source)
    party_file, parties = required(tables, HUB_PARTIES, source)
    _, values = required(tables, HUB_VALUES, source)
    places = {normalise(row["value"]): row for row in values.iter_rows(named=True) if row["value"]}
    held: dict[tuple[str, str], dict[str, None]] = {}
    for row in parties.filter(pl.col("party") == "You").iter_rows(named=True):
        check_action_type(party_file, row["action_type"])
        for value in (row["value"] or "").split(","):
            if name := normalise(value):
                held.setdefault((row["dilemma_idx"], row["action_type"]), {})[name] = None
    rows = []
    for row in dilemmas.iter_rows(named=True):
        names = list(held.get((row["dilemma_idx"], row["action_type"]), {}))
        carried = [f"Value/{name}" for name in names]
        for framework in FRAMEWORKS.values():
            found = dict.fromkeys(places[name][framework] for name in names if name in places)
            carried += [f"{framework}/{v}" for v in found if v]
        about = item_columns(
            file, row["dilemma_idx"], row["dilemma_situation"], row["action_type"], row["action"]
        )
        rows.append({**about, "values": names, "carried": carried})
    return frame(rows)


def frame(rows: list[dict]) -> pl.DataFrame:
    lists = {"values": pl.List(pl.String), "carried": pl.List(pl.String)}
    return pl.DataFrame(rows, schema_overrides=lists, infer_schema_length=None)
