"""The report: tables, figures, page and manifest from what the stages before it wrote."""
