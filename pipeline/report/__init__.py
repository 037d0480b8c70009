"""The report: tables, page and manifest from what the stages before it wrote; it computes no
statistics.
"""
