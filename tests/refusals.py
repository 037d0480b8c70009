"""What a refusal must be: one sentence, on one line, that names what is wrong and, after a colon, what to do."""

import re
from collections.abc import Callable

import pytest

from pipeline.support.errors import InputError


def check_sentence(text: str, said: str) -> None:
    assert re.search(said, text), text
    assert "\n" not in text
    assert ": " in text, text
    assert len(text) < 700, text
    assert "Traceback" not in text


def refused(said: str, call: Callable, *arguments) -> None:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    check_sentence(str(caught.value), said)
