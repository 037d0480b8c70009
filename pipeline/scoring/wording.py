"""The wording of a dilemma question, the same for every evaluation set and every method."""

INSTRUCTION = "Should you take this action? Answer Yes or No first."
ANSWER_PREFIX = "My choice:"  # the bundled model learned to reply with it


def dilemma_prompt(situation: str, action: str) -> str:
    """Return the user's turn; the reply begins with the prefix that the stage `checks` chose."""
    return f"{INSTRUCTION}\nSituation: {situation.strip()}\nAction: {action.strip()}"
