"""A fitted method in the forms that other software reads: a checkpoint, a peft LoRA, a hub folder,
a control vector.
"""
