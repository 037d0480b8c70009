"""Language models: loading, layers, prompts, forward passes, decoding."""
