"""Ask a steered model in the terminal: one prompt side by side, or a conversation with a dial."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.app.answers import answers
from pipeline.app.bundled import default_adapter
from pipeline.app.opening import load_adapter
from pipeline.lm.prompts import Message, user_chat
from pipeline.steering.base import Steering
from pipeline.support.errors import InputError

Answer = Callable[[list[Message], list[float]], Iterator[list[str]]]
HELP = """\
/c -1        moves the dial: answers at 1, 0 and -1 side by side
/c -1 0 1    shows these coefficients side by side
/reset       forgets the conversation
/quit        leaves, as Ctrl-D and Ctrl-C do
The conversation goes on from the answer in the last column."""


def main_steer(prompt: str, coefficients: list[float], *opening) -> None:
    """Answer one prompt at several coefficients; `opening` as in `open_answer`."""
    answer, _ = open_answer(*opening)
    show(Console(), answer(user_chat(prompt), coefficients), coefficients)


def main_chat(coefficients: list[float], *opening) -> None:
    """Talk until the user leaves; `opening` as in `open_answer`."""
    first = dial(tuple(map(str, coefficients)))
    answer, adapter = open_answer(*opening)
    console = Console()
    size = "" if adapter.graded else "; of this adapter's coefficient only the sign counts"
    console.print(Text(f"coefficients {named(first)}{size}; /help lists the commands"))
    Chat(answer, console, first).run(typed())
    console.print()


def typed() -> Iterator[str]:
    """Yield the lines that the user types, until Ctrl-D."""
    with suppress(ImportError):
        import readline  # noqa: F401  (gives input() its history and editing)
    with suppress(EOFError):
        while True:
            yield input("> ")


@dataclass
class Chat:
    """A conversation at several coefficients."""

    answer: Answer
    console: Console
    coefficients: list[float]
    """The dial: what is shown side by side; the conversation goes on from the last one."""
    messages: list[Message] = field(default_factory=list)

    def run(self, lines: Iterable[str]) -> None:
        """Obey commands and answer everything else, until /quit, the lines' end or Ctrl-C."""
        with suppress(KeyboardInterrupt):
            for line in map(str.strip, lines):
                if line == "/quit":
                    return
                try:
                    if line.startswith("/"):
                        self.command(*line.split())
                    elif line:
                        self.say(line)
                except InputError as error:
                    self.console.print(Text(str(error)))

    def say(self, line: str) -> None:
        """Answer a line; an answer that fails leaves the conversation as it was."""
        asked = [*self.messages, *user_chat(line)]
        stream = self.answer(asked, self.coefficients)
        texts = show(self.console, stream, self.coefficients)
        self.messages = [*asked, {"role": "assistant", "content": texts[-1]}]

    def command(self, name: str, *words: str) -> None:
        if name in ("/reset", "/help", "/quit") and words:
            raise InputError(f"{name} takes no words after it: /help says how it is used")
        if name == "/c":
            self.coefficients = dial(words) if words else self.coefficients
            shown = named(self.coefficients)
            said = f"coefficients {shown}; the conversation goes on from the last"
        elif name == "/reset":
            self.messages = []
            said = "the conversation is forgotten"
        elif name == "/help":
            said = HELP
        else:
            raise InputError(f"there is no command {name}: /help lists them")
        self.console.print(Text(said))


def show(console: Console, stream: Iterator[list[str]], coefficients: list[float]) -> list[str]:
    """Draw the growing answers in one column per coefficient; return the last ones."""
    texts = next(stream)  # before anything is drawn: bad arguments and too long a chat show here
    with Live(table(texts, coefficients), console=console, auto_refresh=False) as live:
        for texts in stream:
            live.update(table(texts, coefficients), refresh=True)
    if not console.is_terminal:
        console.print()  # elsewhere Live leaves its last line open
    return texts


def table(texts: list[str], coefficients: list[float]) -> Table:
    drawn = Table(expand=True)
    for c in coefficients:
        drawn.add_column(f"c = {c:g}", ratio=1)
    drawn.add_row(*map(Text, texts))  # as Text, since an answer may hold what rich takes for markup
    return drawn


def dial(words: tuple[str, ...]) -> list[float]:
    """Return the coefficients to show: -c, 0 and c for one number c, several as they are."""
    wrong = f"not {' '.join(words)}: say /c -1, or /c -1 0 1"
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        raise InputError(f"/c takes numbers, {wrong}") from None
    if not all(map(math.isfinite, numbers)):
        raise InputError(f"/c takes finite numbers, {wrong}")
    shown = [-numbers[0], 0.0, numbers[0]] if len(numbers) == 1 else numbers
    return list(dict.fromkeys(c + 0.0 for c in shown))  # + 0.0 makes nought of minus nought


def named(coefficients: list[float]) -> str:
    return ", ".join(f"{c:g}" for c in coefficients)


def open_answer(
    adapters: list[str], model: str | None, device: str, quantisation: str | None,
    weights: list[float], *manner,
) -> tuple[Answer, Steering]:  # fmt: skip
    """Return what answers a chat, and the adapter; `manner` are the last arguments of `answers`."""
    sources = adapters or [default_adapter()]
    opened = load_adapter(sources, model, None, quantisation, None, device, weights)
    base, adapter = opened.base, opened.adapter
    if (sign := adapter.sign) and not sign.decided:
        print(f"warning: {sign.said}")
    if adapter.budget_reached is False:
        print("warning: c = 1 or c = -1 does not cost the budget: their effects are of other costs")
    return lambda messages, shown: answers(base, adapter, messages, shown, *manner), adapter
