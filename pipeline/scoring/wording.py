"""The wording of a dilemma question, the same for every evaluation set and every method."""

INSTRUCTION = "Should you take this action? Answer Yes or No first."
ANSWER_PREFIX = "My choice:"  # the bundled model learned to reply with it
OPENING, QUESTION = "Decide what you do.", "What do you do?"
SITUATION, ACTION = "\nSituation: ", "\nAction: "


def dilemma_prompt(situation: str, action: str) -> str:
    """Return the user's turn; the reply begins with the prefix that the stage `checks` chose."""
    return f"{INSTRUCTION}{SITUATION}{situation.strip()}{ACTION}{action.strip()}"


def open_question(prompt: str) -> tuple[str, str]:
    """Return a `dilemma_prompt` as a question without the action, and the action as its reply."""
    asked, _, action = prompt.rpartition(ACTION)
    situation = asked.removeprefix(INSTRUCTION + SITUATION)
    return f"{OPENING}{SITUATION}{situation}\n{QUESTION}", action
