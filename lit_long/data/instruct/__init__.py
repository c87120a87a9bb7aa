"""Instruction data: conversations rendered with the model's chat template, masked, packed and weighted."""
