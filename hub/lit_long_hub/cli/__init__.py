"""Commands that the release side adds to ``lit-long``, found through the entry-point group ``lit_long.commands``."""
