"""One thin file per stage: parse, read, call, write."""
