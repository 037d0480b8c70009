"""The one error that users are meant to read, and the disk's own errors in the same words."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper


class InputError(Exception):
    """Bad input, said in one sentence: the value, what is allowed, the next step."""


FULL = {errno.ENOSPC, errno.EDQUOT}
CLOSED = {errno.EACCES, errno.EPERM, errno.EROFS}


def disk_problem(error: Exception) -> str | None:
    """Return one sentence about a full or closed disk; None for every other error."""
    # Libraries written in Rust (safetensors, polars) pass such an error on in a text of their own.
    passed_on = re.search(r"\(os error (\d+)\)", str(error))
    code = int(passed_on[1]) if passed_on else getattr(error, "errno", None)
    name = getattr(error, "filename", None)
    where = f" ({name})" if name else ""
    if code in FULL:
        return (
            f"the disk is full{where}: free some space and run the same command again; what was "
            "there before is intact"
        )
    if code in CLOSED:
        return f"permission denied{where}: let this user read and write there, or move the project"
    return None


def in_a_line(error: Exception) -> str:
    """Return the beginning of what an error says, without line breaks."""
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__


def speak_utf8() -> None:
    """Print UTF-8 whatever the locale is, which may know none of the tables' characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(encoding="utf-8", errors="replace")


@contextmanager
def guarded() -> Iterator[None]:
    """Turn what a user can do something about into one sentence and an exit code."""
    try:
        yield
    except InputError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if not (said := disk_problem(error)):
            raise
        fail(said)


def fail(said: str) -> None:
    rank = os.environ.get("RANK", "0")
    print(f"error{'' if rank == '0' else f' in process {rank}'}: {said}", file=sys.stderr)
    sys.exit(2)
