"""The extraction of a PCA direction per layer against repeng's, where that is installed."""

from types import ModuleType

import numpy as np

from pipeline.bench.ratios import Figure, Timer
from pipeline.bench.subject import Subject
from pipeline.steering.direction import layers_in_range
from pipeline.steering.methods.pca import Pca
from pipeline.steering.states import pair_differences

NAME = "extraction / repeng's"


def repeng() -> ModuleType | None:
    """Return the library; 0.4 was written for NumPy 1 and only misses one name of it."""
    vars(np).setdefault("float_", np.float64)
    try:
        import repeng as library
    except ImportError:
        return None
    return library


def extraction(subject: Subject, timer: Timer) -> list[Figure]:
    """Return our time over repeng's, on the same texts and layers, at the last token alone."""
    library = repeng()
    if library is None:
        return [Figure(NAME, None, at_most=1.0, why="repeng is not installed")]
    base, section = subject.base, subject.params.steering["pca"]
    sites = layers_in_range(base.model, section)
    texts = zip(subject.pairs.positive, subject.pairs.negative, strict=True)
    dataset = [library.DatasetEntry(*both) for both in texts]

    def ours() -> None:
        differences = pair_differences(base, subject.pairs, list(sites.values()), last_tokens=1)
        Pca.unit_directions(differences, section, seed=0)

    def theirs() -> None:
        library.ControlVector.train(base.model, base.tokenizer, dataset, hidden_layers=list(sites))

    return [timer({"ours": ours, "repeng": theirs}).ratio(NAME, "ours", "repeng", at_most=1.0)]
