"""What the report is made of: the tables of the stage `effects`, and what the stages before it
left.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from pipeline.report.examples import Example, examples, seed_effects
from pipeline.report.figures.words import nearest_to_one
from pipeline.study.behaviours import Behaviour, Target
from pipeline.study.params import Params
from pipeline.study.sections import DoseParams

SYNTHETIC = {
    "model": "The bundled reference model is a small network trained on a generated world.",
    "evalset": "The dilemmas come from the generated reference world.",
}
NO_MORE = (
    "The figures show how the methods compare on a model organism; they say nothing about "
    "real models or people."
)

SURE = 2.0  # a sign whose |t| is smaller is a guess

Cell = tuple[str, int]  # a method and a seed


@dataclass(frozen=True)
class Results:
    params: Params
    """What the stage declares of params.yaml."""
    tables: dict[str, pl.DataFrame]
    """The CSV files of reports/, by name."""
    oracle: list[dict[str, float]]
    manifest: dict[str, Any]
    """Of the base model."""
    behaviour: Behaviour
    pairs: pl.DataFrame
    items: pl.DataFrame
    cells: dict[str, pl.DataFrame]
    """Each method's scores, all its seeds."""
    base: pl.DataFrame
    """The untouched model's scores."""
    histories: dict[str, dict[int, pl.DataFrame]]
    certificates: dict[Cell, dict[str, Any]]
    """Of the learned methods."""
    adapters: dict[Cell, dict[str, Any]]
    """What each fitted method says of itself in steering.json."""

    @property
    def target(self) -> Target:
        return self.behaviour.targets[self.params.evalset]

    @property
    def dose(self) -> DoseParams:
        return self.params.dose

    @property
    def unit(self) -> float:
        """The coefficient of tables at ±1, or the nearest to it that was run."""
        return nearest_to_one(self.tables["arms"])

    @property
    def n_dilemmas(self) -> int:
        return self.tables["arms"]["n_dilemmas"][0]

    @property
    def synthetic(self) -> str:
        """What of the study is synthetic; empty where nothing is."""
        found = [
            text for key, text in SYNTHETIC.items() if getattr(self.params, key) == "reference"
        ]
        return " ".join([*found, NO_MORE]) if found else ""

    @property
    def study(self) -> str:
        """The study in the words of every caption."""
        p, mark = self.params, " (synthetic)" if self.synthetic else ""
        return f"{p.model}{mark}, {p.behaviour} on {p.evalset}"

    @property
    def seeds(self) -> str:
        seeds = self.params.seeds
        return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"

    @property
    def n_random(self) -> int:
        """How many random directions there are."""
        arms = self.tables["arms"]
        return max(arms.filter(pl.col("method") == "random")["n_seeds"], default=0)

    @property
    def unreached(self) -> list[str]:
        """Methods of which some fit does not reach the budget at the largest dose of the search,
        where it stands instead.
        """
        doses = [(method, adapter["dose"]) for (method, _), adapter in self.adapters.items()]
        return list(dict.fromkeys(method for method, dose in doses if dose and not dose["reached"]))

    @property
    def sign_t(self) -> dict[Cell, float]:
        """The t over calibration texts of the movement that decides which way of each trained
        adapter is +.
        """
        return {cell: self.adapters[cell]["summary"]["orientation_t"] for cell in self.certificates}

    @property
    def guessed(self) -> list[Cell]:
        """Trained adapters whose sign the calibration texts do not decide."""
        return [cell for cell, t in self.sign_t.items() if abs(t) < SURE]

    @cached_property
    def seed_effects(self) -> pl.DataFrame:
        return seed_effects(self.cells, self.base, self.items, self.target.label)

    @cached_property
    def examples(self) -> list[Example]:
        """Single dilemmas of the best trained method (at equal cost) and of the first kind of
        prompting.
        """
        best = self.tables["equal_cost"].sort("target_effect", descending=True)["method"].to_list()
        trained = [method for method in best if method in self.params.methods]
        prompts = [
            method
            for method in self.params.baselines
            if self.params.steering[method].method == "prompting"
        ]
        return [
            example
            for method in trained[:1] + prompts[:1]
            for example in examples(
                method, self.cells[method], self.base, self.items, self.target.label, self.unit
            )
        ]
