"""What git says, where there is a git and a repository."""

import subprocess


def git(*words: str) -> str | None:
    """Return what a git command prints; None where it fails, or is not installed."""
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, encoding="utf-8", errors="replace"
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None
