"""The base model as a method: it steers nothing, so scoring has one path for base and adapters."""

from pipeline.steering.base import Hooked


class Untouched(Hooked):
    graded = False
