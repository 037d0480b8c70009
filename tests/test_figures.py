"""The figures hold what they say, from three methods to as many as `make variants` has."""

from itertools import combinations

import polars as pl
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.metrics import drawn
from pipeline.report import figures
from pipeline.report.figures.look import Sheet
from pipeline.steering import METHODS
from pipeline.support.schemas import MEAN
from tests.test_tables import arm

MANY = 62
LONG = "in_a_longer_variant"
BOTH = ("target_effect", "ci_low", "ci_high", "seed_min", "seed_max")


def methods(count: int) -> list[str]:
    """Return a prompt and the random directions, then methods and more and more variants."""
    own = [name for name in METHODS if name not in ("prompting", "random")]
    further = [f"{name}_{LONG}_{k}" for k in range(8) for name in own]
    return ["prompting", "random", *own, *further][:count]


def equal(count: int) -> pl.DataFrame:
    rows = [
        arm(name, 0.9 if name == "prompting" else place / 1000 - 0.02, delta_nll=0.004 * place,
            calibrated=name != "prompting", coherent=True)
        for place, name in enumerate(methods(count))
    ]  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def effects(count: int) -> pl.DataFrame:
    rows = [
        {"method": name, "seed": MEAN, "coefficient": c, "delta_nll": 0.1, "choice_mass": 0.9,
         "answered": 0.75, **{f"{k}{form}": c / 9 for k in BOTH for form in ("", "_log_odds")}}
        for name in methods(count) for c in (-1.0, 1.0)
    ]  # fmt: skip
    return pl.DataFrame(rows)


def forest(sheet: Sheet, count: int) -> None:
    numbers = {"effect": [0.01, -0.02], "effect_log_odds": [0.05, -0.1]}
    seeds = pl.DataFrame({"method": ["random"] * 2, "seed": [0, 1], **numbers})
    figures.forest(sheet, equal(count), seeds)


def effect_vs_coherence(sheet: Sheet, count: int) -> None:
    figures.effect_vs_coherence(sheet, equal(count), equal(count), effects(count), 0.2)


def value_map(sheet: Sheet, count: int) -> None:
    cell = {"half": 0.1, "half_log_odds": 0.5, "n_items": 9, "significant": True}
    labels = [f"Value/{name}" for name in ("honesty", "deceit", "kindness")]
    cells = [
        {"method": name, "label": label, **cell} for name in methods(count) for label in labels
    ]
    figures.value_map(sheet, pl.DataFrame(cells), labels, 1.0)


def choice_mass(sheet: Sheet, count: int) -> None:
    figures.choice_mass(sheet, effects(count), drawn.excluded_counts(effects(count), 200), 200, 0.5)


def dose_response(sheet: Sheet, count: int) -> None:
    figures.dose_response(sheet, effects(count), [])


def training_curves(sheet: Sheet, count: int) -> None:
    steps = {"split": ["train", "calibration"] * 2, "step": [1, 1, 2, 2]}
    history = pl.DataFrame(steps | {"loss": [1.0, 0.9, 0.5, 0.7]})
    figures.training_curves(sheet, {name: {0: history} for name in methods(count)})


@pytest.mark.parametrize(("draw", "count"), [
    (forest, 3), (forest, 20), (forest, MANY), (effect_vs_coherence, MANY), (value_map, MANY),
    (choice_mass, MANY), (dose_response, 24), (training_curves, 24),
])  # fmt: skip
def test_a_figure_holds_all_it_shows_and_no_text_covers_another(draw, count, monkeypatch, tmp_path):
    kept, places = [], []

    def place(text: Text, renderer, *_, **__) -> None:
        if text.get_text() and text.get_visible():
            places.append((text.get_text(), text.get_window_extent(renderer)))

    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: kept.append(self))
    draw(Sheet(tmp_path, "a caption of this study and of all that is in it"), count)
    monkeypatch.setattr(Text, "draw", place)
    kept[-1].draw_without_rendering()
    (width, height), reach = kept[-1].get_size_inches(), kept[-1].get_tightbbox()
    assert reach.x0 >= 0 and reach.x1 <= width and reach.y0 >= 0 and reach.y1 <= height
    assert len(places) > min(count, 20)
    pairs = combinations(places, 2)
    assert not [(one, other) for (one, a), (other, b) in pairs if a.overlaps(b)]
