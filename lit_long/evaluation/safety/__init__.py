"""Safety as in the paper's section 5: ToxiGen, BOLD, and long-context red teaming; TruthfulQA is in the harness.

Prompts come from public data sets, answers are greedy, judges are open: the RoBERTa ToxiGen classifier and VADER, which
the paper uses too. Its TruthfulQA is judged by two fine-tuned GPT-3 models that nobody can have; the harness's
``truthfulqa_mc2`` stands in for it, and the report says so.
"""
