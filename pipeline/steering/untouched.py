"""The base model as a method: it steers nothing, so scoring has one path for base and adapters."""

from pipeline.lm.prompts import Message
from pipeline.steering.base import Hooked


class Untouched(Hooked):
    graded = False

    def rewrite(self, messages: list[Message], coefficient: float) -> list[Message]:
        return messages

    def touched(self) -> list[str]:
        return []
