"""Pairwise human preference as in the paper's Fig. 3: blind sheets for raters, and win, tie and loss with intervals."""
