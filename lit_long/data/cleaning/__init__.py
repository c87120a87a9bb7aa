"""Cleaning before tokenising: duplicates, language and quality, by the blocks of datatrove (extra ``clean``).

:func:`clean` reads the sources, runs a datatrove pipeline over them and writes the documents that stay, in their
order; what it returns is a list of sources like any other. docs/data/cleaning.md says what each block does and costs.
"""

from lit_long.data.cleaning.clean import clean
from lit_long.data.cleaning.config import CleanConfig, NearDuplicates

__all__ = ["CleanConfig", "NearDuplicates", "clean"]
