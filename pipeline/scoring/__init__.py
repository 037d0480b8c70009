"""How a model answers: the question, log-odds, reasoning and free texts."""
