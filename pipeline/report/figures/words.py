"""How the report names methods, the same in every table, figure and sentence."""

from pipeline.steering import METHODS


def parent(method: str) -> str:
    """Return the longest method id that `method` begins with (it is its variant), or itself."""
    return max(
        (name for name in METHODS if method == name or method.startswith(f"{name}_")),
        key=len,
        default=method,
    )


def name_of(method: str) -> str:
    """Return a method's or a variant's name in words."""
    root = parent(method)
    words = method.removeprefix(root).strip("_").replace("_", " ")
    label = METHODS[root].load().label if root in METHODS else root
    return label + (f", {words}" if words else "")


def has_dose(method: str) -> bool:
    """Say whether a method's coefficient has a size; of a prompt only its sign counts."""
    root = parent(method)
    return root not in METHODS or METHODS[root].load().graded


def in_order(methods: list[str]) -> list[str]:
    """Return the distinct methods in the order of the registry, variants after their method."""
    order = {method: index for index, method in enumerate(METHODS)}
    return sorted(dict.fromkeys(methods), key=lambda method: order.get(parent(method), len(order)))


def short_labels(labels: list[str]) -> dict[str, str]:
    """Return label -> its words, without the framework where all labels share one."""
    shared = len({label.partition("/")[0] for label in labels}) == 1
    return {label: label.partition("/")[2] if shared else label for label in labels}
