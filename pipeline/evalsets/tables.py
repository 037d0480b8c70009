"""Reading a set's tables from the hub or a folder; a bad cell is named by file, row and column."""

import ast
import hashlib
import re
from pathlib import Path
from typing import Any, NoReturn

import polars as pl
import polars.selectors as cs
from huggingface_hub import errors, snapshot_download

from pipeline.support.errors import InputError
from pipeline.support.paths import resolve_source
from pipeline.support.sections import HubParams

UNREACHABLE = (
    errors.HFValidationError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError,
    errors.OfflineModeIsEnabled, ConnectionError,
)  # fmt: skip
FILE, ROW = "_file", "_row"  # columns of every table: where its rows stand, the first being row 1
STRING = r"""(?:'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")"""
LIST = re.compile(rf"\[\s*(?:(?:{STRING}|nan|None)\s*(?:,\s*(?=[^\]\s])|(?=\])))*\]")
Row = dict[str, Any]


def locate(section: HubParams, evalset: str) -> tuple[Path, str | None]:
    """Return the folder that the section's source names, or a hub snapshot and its commit."""
    if (folder := resolve_source(section.source)) and folder.is_dir():
        return folder, None
    wanted: Row = {"revision": section.revision, "allow_patterns": ["*.csv", "*.parquet"]}
    try:
        folder = Path(snapshot_download(section.source, repo_type="dataset", **wanted))
    except UNREACHABLE:
        raise InputError(
            f"evaluation set {section.source!r} is neither a folder nor reachable on the hub: "
            f"connect, or set evalsets.{evalset}.source to a folder with its CSV or parquet files"
        ) from None
    return folder, folder.name  # the hub's cache names a snapshot by its commit


def origin(section: HubParams, evalset: str) -> dict[str, Any]:
    """Return where a set was read: source, revision, the hub's commit, each file's sha256."""
    folder, commit = locate(section, evalset)
    asked = section.revision if commit else None
    return {"source": section.source, "revision": asked, "commit": commit} | hashes(folder)


def hashes(folder: Path) -> dict[str, dict[str, str]]:
    contents = {str(file.relative_to(folder)): file.read_bytes() for file in table_files(folder)}
    return {"sha256": {name: hashlib.sha256(held).hexdigest() for name, held in contents.items()}}


def table_files(folder: Path) -> list[Path]:
    """Return the CSV and parquet files below a folder without hidden ones, in order."""
    files = sorted([*folder.rglob("*.csv"), *folder.rglob("*.parquet")])
    return [file for file in files if "/." not in f"/{file.relative_to(folder).as_posix()}"]


def read_tables(folder: Path, evalset: str) -> list[pl.DataFrame]:
    """Return the tables below a folder as text, each with the columns FILE and ROW."""
    if read := [read_table(file) for file in table_files(folder)]:
        return read
    said = f"{folder} holds no CSV or parquet file"
    raise InputError(f"{said}: point evalsets.{evalset}.source at the set")


def read_table(file: Path) -> pl.DataFrame:
    """Read one file, numbers as text; lists stay as they are, to be refused where text is due."""
    csv = file.suffix == ".csv"
    try:
        table = pl.read_csv(file, infer_schema=False) if csv else pl.read_parquet(file)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        said = f"{file} cannot be read as a table ({reason}): restore or correct it"
        raise InputError(said) from None
    if table.is_empty():
        raise InputError(f"{file} holds no rows: restore it, or take it out of the folder")
    return table.with_columns(pl.lit(str(file)).alias(FILE)).with_row_index(ROW, offset=1)


def pick(
    tables: list[pl.DataFrame], columns: list[str], without: tuple[str, ...] = ()
) -> pl.DataFrame | None:
    """Return the rows of all tables with these columns and none of `without`; None if none has."""
    texts = []
    for table in tables:
        if not set(columns) <= set(table.columns) or set(without) & set(table.columns):
            continue
        if odd := table.select(columns).select(cs.nested()).columns:
            raise InputError(
                f"{table[FILE][0]}: column {odd[0]!r} is {table.schema[odd[0]]}, must be text: "
                "write lists as text, e.g. ['honesty']"
            )
        texts.append(table.select(FILE, ROW, pl.col(columns).cast(pl.String)))
    return pl.concat(texts) if texts else None


def required(
    tables: list[pl.DataFrame], columns: list[str], source: str, without: tuple[str, ...] = (),
    others: tuple[list[str], ...] = (),
) -> pl.DataFrame:  # fmt: skip
    """Return `pick`, or refuse with what the nearest table lacks of these or other columns."""
    if (table := pick(tables, columns, without)) is not None:
        return table
    lacking = [
        (len(missing) / len(wanted), table[FILE][0], wanted, missing)
        for table in tables
        for wanted in (*others, columns)
        if (missing := [column for column in wanted if column not in table.columns])
    ]
    said = f"{source}: no table has the columns"
    if not lacking:
        raise InputError(f"{said} {', '.join(columns)} without {', '.join(without)}: add it")
    _, name, wanted, missing = min(lacking, key=lambda row: row[0])
    nearest = f"the nearest, {name}, lacks {', '.join(missing)}"
    raise InputError(f"{said} {', '.join(wanted)}; {nearest}: add or rename them")


def refuse(row: Row, column: str, allowed: str) -> NoReturn:
    place = f"{row[FILE]}, row {row[ROW]}"
    raise InputError(f"{place}: column {column!r} holds {row[column]!r}, {allowed}")


def text(row: Row, column: str) -> str:
    """Return a cell's text, which may not be blank."""
    if is_nothing(row[column] or ""):
        refuse(row, column, "must hold text: fill it in, or take the dilemma out")
    return row[column].strip()


def one_of(row: Row, column: str, allowed: tuple[str, ...]) -> str:
    if row[column] not in allowed:
        refuse(row, column, f"must be {' or '.join(allowed)}: correct it")
    return row[column]


def strings(row: Row, column: str, missing: bool = False) -> list[Any]:
    """Return a cell's list of strings, written as Python does.

    Strings without a comma between them are refused: Python itself would join them to one. None,
    which pandas writes as nan, stands for a missing entry where it may be `missing`.
    """
    cell = (row[column] or "").strip()
    if not LIST.fullmatch(cell):
        refuse(row, column, "must be a list of strings: write it as ['honesty', 'trust']")
    try:
        entries = ast.literal_eval(re.sub(rf"({STRING})|\bnan\b", lambda m: m[1] or "None", cell))
    except SyntaxError:  # an escape such as \x that is not whole
        refuse(row, column, "must be a list of strings: write a backslash as two")
    if any(is_nothing(entry) if entry is not None else not missing for entry in entries):
        refuse(row, column, "must hold no empty entry: fill it in, or take it out of the row")
    return entries


def is_nothing(text: str) -> bool:
    return text.strip().lower() in ("", "nan", "none", "null")
