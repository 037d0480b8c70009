"""Language models: loading, finding their layers, prompts, and scoring."""
