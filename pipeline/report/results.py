"""What the report is made of: the tables of the stage `effects`, and what earlier stages left."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import polars as pl

from pipeline.metrics.effects import seed_effects
from pipeline.metrics.examples import Example, examples
from pipeline.metrics.scores import SUFFIXES, Evaluation, at_one
from pipeline.study.behaviours import UNTARGETED, Behaviour, Target, unmeasured
from pipeline.study.params import Params
from pipeline.support.paths import behaviour_file

SYNTHETIC = {
    "model": "The bundled reference model is a small network trained on a generated world.",
    "evalset": "The dilemmas come from the generated reference world.",
}
NO_MORE = (
    "The figures show how the methods compare on a model organism; they say nothing about "
    "real models or people."
)

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
    elicitation: dict[str, float]
    """How far the personas move the untouched model, and below what that is little."""
    texts: pl.DataFrame | None
    """The free texts of the base and of every method; None where none were asked for."""

    @property
    def target(self) -> Target:
        return self.behaviour.targets.get(self.params.evalset, UNTARGETED)

    @property
    def unmeasured(self) -> str:
        """What the study says instead of effects; empty where it measures them."""
        file = behaviour_file(self.params.behaviour)
        return "" if self.target.label else unmeasured(file, self.params.evalset)

    @property
    def unit(self) -> float:
        """The coefficient of tables at ±1, or the nearest to it that was run."""
        return abs(at_one(next(iter(self.cells.values())))["coefficient"][0])

    @property
    def n_dilemmas(self) -> int:
        return self.tables["arms"]["n_dilemmas"][0]

    def n_pairs(self, split: str) -> int:
        return self.pairs.filter(split=split).height

    @property
    def synthetic(self) -> str:
        """What of the study is synthetic; empty where nothing is."""
        parts = [
            said for key, said in SYNTHETIC.items() if getattr(self.params, key) == "reference"
        ]
        return " ".join([*parts, NO_MORE]) if parts else ""

    @property
    def log_odds_first(self) -> bool:
        """Whether effects in log-odds stand before those in probability: on real models."""
        return self.params.model != "reference"

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
        return self.cells["random"]["seed"].n_unique() if "random" in self.cells else 0

    @property
    def unreached(self) -> list[str]:
        """Methods of which some fit does not reach the budget at the largest raw coefficient."""
        missed = pl.col("calibrated") & ~pl.col("budget_reached")
        return self.tables["equal_cost"].filter(missed)["method"].to_list()

    @property
    def undecided(self) -> list[Cell]:
        """Fits whose sign is free, and which the probes do not decide."""
        signs = {cell: adapter["sign"] for cell, adapter in self.adapters.items()}
        return [cell for cell, sign in signs.items() if sign and not sign["decided"]]

    @cached_property
    def seed_effects(self) -> pl.DataFrame:
        return seed_effects(self.tables["effects"])

    @cached_property
    def examples(self) -> list[Example]:
        """Single dilemmas of the best trained method (at equal cost) and of the first prompting."""
        params, target = self.params, self.target
        about = target.label, target.opposite, params.statistics
        against = Evaluation(self.base, self.items, *about)
        effect = f"target_effect{SUFFIXES[self.log_odds_first]}"
        best = self.tables["equal_cost"].sort(effect, descending=True)["method"]
        trained = [method for method in best if method in params.methods]
        prompts = [m for m in params.baselines if params.steering[m].method == "prompting"]
        return [
            example
            for method in trained[:1] + prompts[:1]
            for example in examples(method, self.cells[method], against, self.unit)
        ]
