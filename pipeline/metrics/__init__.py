"""Scores to effects, intervals and p-values: a table in, a table out."""
