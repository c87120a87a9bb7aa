"""Short tasks by lm-evaluation-harness: the paper's suite, run on the model in memory, compared with a base model.

Tasks, prompts, answers and metrics are all the harness's own; here are only the paper's choice of tasks and shots
(`suite`), the call (`run`) and what is made of the results (`compare`).
"""
