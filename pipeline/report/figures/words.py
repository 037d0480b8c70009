"""How the report names methods and writes numbers, the same in every table, figure and sentence."""

from typing import Any

import polars as pl

from pipeline.steering import METHODS

NAMES = {
    "innerpissa": "InnerPiSSA",
    "antipasto": "AntiPaSTO",
    "lora": "LoRA",
    "dora": "DoRA",
    "prompting": "prompting",
    "mean_diff": "mean difference",
    "pca": "PCA",
    "s_space": "S-space",
    "gradient": "gradient direction",
    "random": "random directions",
}
NONE = "–"


def parent(method: str) -> str:
    """Return the method whose variant an id is by its name: the longest method id that it begins
    with, or itself.
    """
    return max(
        (name for name in METHODS if method == name or method.startswith(f"{name}_")),
        key=len,
        default=method,
    )


def name_of(method: str) -> str:
    """Return a method's or a variant's name in words."""
    root = parent(method)
    words = method.removeprefix(root).strip("_").replace("_", " ")
    return NAMES.get(root, root) + (f", {words}" if words else "")


def has_dose(method: str) -> bool:
    """Say whether a method's coefficient has a size; of a prompt only its sign counts."""
    return parent(method) != "prompting"


def in_order(methods: list[str]) -> list[str]:
    """Return the distinct methods in the order of the registry, variants after their method."""
    order = {method: index for index, method in enumerate(METHODS)}
    return sorted(dict.fromkeys(methods), key=lambda method: order.get(parent(method), len(order)))


def nearest_to_one(arms: pl.DataFrame) -> float:
    return min(arms["coefficient"].abs().unique(), key=lambda c: (abs(c - 1), c))


def number(value: float | None, digits: int = 3, sign: str = "") -> str:
    """Return a rounded number, a zero without a sign; `sign` "+" marks positive ones too."""
    if value is None:
        return NONE
    rounded = round(value, digits)
    return f"{rounded:{sign}.{digits}f}" if rounded else f"{0:.{digits}f}"


def coefficient(value: float) -> str:
    return f"{value:+g}" if value else "0"


def p_value(value: float | None) -> str:
    return NONE if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def percent(value: float | None) -> str:
    return number(None if value is None else 100 * value, 1)


def bracket(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"[{number(low)}, {number(high)}]"


def interval(row: dict[str, Any]) -> str:
    return bracket(row["ci_low"], row["ci_high"])


def title(row: dict[str, Any]) -> str:
    """Return a row's method, marked where too few items are answered."""
    return name_of(row["method"]) + ("" if row["coherent"] else " †")
