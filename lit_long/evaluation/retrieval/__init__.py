"""Retrieval from long contexts in one forward pass: needles, keys and chains hidden in real text."""
