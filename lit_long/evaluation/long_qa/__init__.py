"""Questions on long documents: the paper's four tasks, ZeroSCROLLS and L-Eval, on one road from rows to scores.

Rows come from the Hub or a folder (`sources`), become questions (`scrolls`, `zero_scrolls`, `l_eval`), are cut to a
cap of tokens by the benchmark's rule (`prompts`), answered (`answers`), scored by established packages (`metrics`)
and summed up beside the paper's numbers (`summary`, `paper`).
"""
