"""The one error that users are meant to read."""


class InputError(Exception):
    """Bad input, said in one sentence: the value, what is allowed, the next step."""
