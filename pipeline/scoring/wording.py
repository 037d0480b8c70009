"""The wording of a dilemma question, the same for every evaluation set and every method."""

INSTRUCTION = "Should you take this action? Answer Yes or No first."
ANSWER_PREFIX = "My choice:"


def dilemma_prompt(situation: str, action: str) -> str:
    """Return the user's turn; the assistant's turn is pre-filled with `ANSWER_PREFIX`."""
    return f"{INSTRUCTION}\nSituation: {situation.strip()}\nAction: {action.strip()}"
