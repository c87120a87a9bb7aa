"""The paper's short tasks (Tables 1, 2, 14 to 16) as tasks of lm-evaluation-harness, with the paper's shots.

The paper names tasks and shots; prompts and answer extraction here are the harness's, so a score is compared with a
base model measured the same way, and stands beside the paper's as a guide. Known differences: TriviaQA is the split
without contexts (the paper: wiki), SIQA, WinoGrande and CommonsenseQA are unnormalised accuracies as the harness has
no others, NaturalQuestions is its open form.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HarnessTask:
    """A task of the harness.

    Attributes:
        name: the harness's name of a task or group of tasks.
        shots: examples in the prompt; ``None`` for the task's own.
        metrics: names to look for in the harness's results, the first that is there counts; empty for any.
        group: the paper's group.
        label: the paper's name.
        runs_code: whether it runs programs that the model wrote.
    """

    name: str
    shots: int | None = None
    metrics: tuple[str, ...] = ()
    group: str = ""
    label: str = ""
    runs_code: bool = False


_ACC, _NORM = ("acc",), ("acc_norm", "acc")
_EXACT = ("exact_match",)

PAPER_SUITE = (
    HarnessTask(
        name="humaneval",
        shots=0,
        metrics=("pass@1", "pass_at_k"),
        group="Coding",
        label="HumanEval",
        runs_code=True,
    ),
    HarnessTask(name="mbpp", shots=3, metrics=("pass_at_1", "pass@1"), group="Coding", label="MBPP", runs_code=True),
    HarnessTask(name="gsm8k", shots=8, metrics=_EXACT, group="Math", label="GSM8K"),
    HarnessTask(name="minerva_math", shots=4, metrics=("math_verify", "exact_match"), group="Math", label="MATH"),
    HarnessTask(name="mmlu", shots=5, metrics=_ACC, group="MMLU", label="MMLU"),
    HarnessTask(name="piqa", shots=0, metrics=_NORM, group="Commonsense", label="PIQA"),
    HarnessTask(name="social_iqa", shots=0, metrics=_ACC, group="Commonsense", label="SIQA"),
    HarnessTask(name="hellaswag", shots=0, metrics=_NORM, group="Commonsense", label="HellaSwag"),
    HarnessTask(name="winogrande", shots=0, metrics=_ACC, group="Commonsense", label="WinoGrande"),
    HarnessTask(name="arc_easy", shots=0, metrics=_NORM, group="Commonsense", label="ARC-e"),
    HarnessTask(name="arc_challenge", shots=0, metrics=_NORM, group="Commonsense", label="ARC-c"),
    HarnessTask(name="openbookqa", shots=0, metrics=_NORM, group="Commonsense", label="OpenBookQA"),
    HarnessTask(name="commonsense_qa", shots=7, metrics=_ACC, group="Commonsense", label="CommonsenseQA"),
    HarnessTask(name="nq_open", shots=5, metrics=_EXACT, group="OpenQA", label="NaturalQuestions"),
    HarnessTask(name="triviaqa", shots=5, metrics=_EXACT, group="OpenQA", label="TriviaQA"),
)

# The paper's TruthfulQA is judged by two fine-tuned GPT-3 models; mc2 is the harness's open stand-in.
TRUTHFULQA = (HarnessTask(name="truthfulqa_mc2", shots=0, metrics=_ACC, group="Safety", label="TruthfulQA (mc2)"),)

PRESETS = {"paper": PAPER_SUITE, "truthfulqa": TRUTHFULQA}
_SIZES = ("7B", "13B", "34B", "70B")
# Table 1: group -> Llama 2 and Llama 2 Long, by size; label -> Llama 2 Long by size (Tables 1, 15, 16)
_GROUPS = {
    "Coding": ((16.8, 24.5, 27.8, 37.4), (20.6, 25.7, 29.9, 39.9)),
    "Math": ((8.55, 16.3, 24.2, 35.2), (10.5, 21.5, 29.0, 41.3)),
    "MMLU": ((45.3, 54.8, 62.6, 68.9), (47.8, 60.1, 65.0, 71.7)),
    "Commonsense": ((63.9, 66.9, 69.9, 71.9), (64.9, 67.8, 70.9, 72.7)),
    "OpenQA": ((48.9, 55.4, 58.7, 63.6), (51.0, 56.8, 60.3, 64.0)),
}
_TASKS = {
    "HumanEval": (18.3, 19.5, 22.6, 32.9),
    "MBPP": (23.0, 31.8, 37.2, 46.8),
    "MATH": (4.22, 8.38, 10.6, 17.2),
    "GSM8K": (16.8, 34.6, 47.4, 65.4),
    "NaturalQuestions": (27.5, 32.5, 35.0, 39.8),
    "TriviaQA": (74.4, 81.1, 85.6, 88.2),
    "PIQA": (78.9, 81.6, 82.6, 83.3),
    "SIQA": (48.7, 50.7, 51.7, 52.8),
    "HellaSwag": (77.8, 81.2, 83.8, 85.7),
    "WinoGrande": (70.4, 74.1, 77.5, 79.6),
    "ARC-e": (76.2, 77.7, 79.7, 80.3),
    "ARC-c": (52.0, 51.4, 54.8, 58.4),
    "OpenBookQA": (59.0, 55.6, 60.2, 59.6),
    "CommonsenseQA": (61.0, 70.4, 77.0, 81.9),
    "MMLU": (47.8, 60.1, 65.0, 71.7),
    # Table 14
    "mmlu_humanities": (54.8, 69.0, 73.5, 80.1),
    "mmlu_stem": (35.7, 44.4, 49.9, 55.5),
    "mmlu_social_sciences": (58.4, 71.3, 78.4, 84.4),
    "mmlu_other": (53.2, 65.8, 69.3, 74.9),
}


def paper_group(group: str) -> dict[str, float]:
    """Table 1's means of a group, by model; empty for a group that the paper does not have."""
    if group not in _GROUPS:
        return {}
    names = ("Llama 2", "Llama 2 Long")
    return {
        f"{name} {size}": value
        for name, values in zip(names, _GROUPS[group], strict=True)
        for size, value in zip(_SIZES, values, strict=True)
    }


def paper_task(label: str) -> dict[str, float]:
    """Llama 2 Long's scores on a task or a part of MMLU (Tables 1, 14 to 16) by size; empty where there are none."""
    if label not in _TASKS:
        return {}
    return {f"Llama 2 Long {size}": value for size, value in zip(_SIZES, _TASKS[label], strict=True)}
