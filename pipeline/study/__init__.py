"""The study as a whole: its parameters, behaviours, pairs, code hashes and tracking."""
