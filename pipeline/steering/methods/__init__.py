"""One file per method; `innerpissa.py` is the one to read first."""
