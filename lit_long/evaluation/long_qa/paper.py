"""Numbers of the paper's long tasks, to stand beside one's own.

Effective Long-Context Scaling of Foundation Models (arXiv 2309.16039): Tables 3, 13, 4 and 17 and Fig. 2. They come
from transcriptions of the paper that agree with each other.
"""

_BASE = ("scrolls/narrative_qa", "scrolls/qasper", "scrolls/quality", "scrolls/qmsum")
_ZERO = (
    *("gov_report", "summ_screen_fd", "qmsum", "squality", "qasper"),
    *("narrative_qa", "quality", "musique", "space_digest", "book_sum_sort"),
)
_L_EVAL = ("coursera", "tpo", "topic_retrieval_longchat", "financial_qa", "legal_contract_qa", "natural_question")

# table -> prompt cap -> model -> scores in the order above
_TABLE_3 = {
    "Llama 2 Long 7B": (21.9, 27.8, 43.2, 14.9),
    "Llama 2 Long 13B": (25.6, 31.2, 57.6, 15.7),
    "Llama 2 Long 34B": (29.4, 33.7, 65.7, 15.9),
    "Llama 2 Long 70B": (30.9, 35.7, 79.7, 16.5),
    "Llama 2 70B": (25.7, 27.5, 53.0, 11.9),
    "Together-7B-32k": (23.3, 27.3, 41.2, 12.6),
    "Yarn-7B-128k": (20.9, 26.2, 32.3, 11.4),
    "Yarn-13B-128k": (23.4, 27.1, 46.4, 11.9),
    "MPT-30B-8k": (22.9, 29.0, 41.5, 10.3),
    "MPT-7B-8k": (18.8, 24.7, 23.7, 8.78),
    "Xgen-7B-8k": (17.4, 20.5, 21.0, 6.79),
    "Focused Transformer 3B": (16.3, 15.4, 20.5, 10.6),
}
_TABLE_13 = {
    "Llama 2 Long 7B": (24.4, 28.7, 43.6, 15.9),
    "Llama 2 Long 13B": (27.4, 31.6, 59.0, 17.0),
    "Together-7B-32k": (24.7, 27.3, 41.3, 14.2),
    "Yarn-7B-128k": (24.0, 26.2, 30.4, 13.6),
    "Yarn-13B-128k": (25.5, 27.1, 48.0, 13.8),
}
_FIGURE_2 = {
    4096: (27.5, 28.9, 63.9, 10.9),
    8192: (28.7, 32.7, 80.3, 11.9),
    12288: (30.2, 35.1, 79.6, 14.4),
    16384: (30.9, 35.7, 79.7, 16.5),
}
_TABLE_4 = {
    "Llama 2 Long Chat 70B": (26.0, 15.0, 20.0, 20.9, 52.0, 31.7, 82.6, 27.3, 55.5, 46.2),
    "GPT-3.5-turbo-16k": (24.3, 16.2, 17.4, 21.4, 50.0, 29.5, 72.0, 27.0, 54.1, 54.6),
    "GPT-3.5-turbo 4k": (21.3, 16.1, 15.6, 20.4, 49.3, 25.1, 66.6, 27.1, 49.1, 49.8),
    "Claude 8k": (24.2, 16.1, 14.6, 21.0, 52.3, 32.6, 84.8, 36.1, 61.6, 47.4),
    "GPT-4 8k": (26.3, 17.3, 18.5, 22.6, 50.7, 27.6, 89.2, 41.1, 62.8, 60.5),
}
_TABLE_17 = {
    "Llama 2 Long Chat 70B": (52.9, 81.8, 76.0, 47.3, 25.5, 66.7),
    "gpt-3.5-turbo-16k": (59.7, 69.9, 69.3, 45.4, 24.9, 45.9),
    "longchat-13b-16k": (36.8, 55.4, 33.3, 37.9, 21.1, 22.8),
    "chatglm2-6b-8k": (47.2, 54.6, 10.0, 34.8, 16.4, 17.6),
}


def reference(task: str, cap: int) -> tuple[str, dict[str, float]]:
    """The paper's numbers for a task at a prompt cap: where they stand, and model -> score; empty where it has none."""
    suite, _, name = task.partition("/")
    if task in _BASE:
        column = _BASE.index(task)
        if cap == 16384:
            return "Table 3", {model: scores[column] for model, scores in _TABLE_3.items()}
        if cap == 32768:
            return "Table 13", {model: scores[column] for model, scores in _TABLE_13.items()}
        if cap in _FIGURE_2:
            return "Fig. 2", {"Llama 2 Long 70B": _FIGURE_2[cap][column]}
    if suite == "zero_scrolls":  # the test split, whose labels are hidden; validation has about 20 examples a task
        return "Table 4, test split", {model: scores[_ZERO.index(name)] for model, scores in _TABLE_4.items()}
    if suite == "l_eval":
        return "Table 17", {model: scores[_L_EVAL.index(name)] for model, scores in _TABLE_17.items()}
    return "", {}
