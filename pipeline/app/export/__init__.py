"""A fitted method in the forms that other software reads: checkpoint, LoRA, hub, vectors."""
