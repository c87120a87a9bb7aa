"""Checks a card's YAML head offline, by the rules that the Hub applies when it is pushed (hub-facts.md, section 4)."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_NO_LANGUAGES = ("code", "multilingual")
_RELATIONS = ("finetune", "adapter", "merge", "quantized")
_RESULT_KEYS = {"task", "dataset", "metrics", "source"}


def front_matter_problems(head: Mapping[str, Any]) -> list[str]:
    """What the Hub would refuse, or show wrongly, in a card's front matter.

    Args:
        head: The parsed YAML.

    Returns:
        One text for each problem, naming the key; empty if there is none.
    """
    return [*_plain_keys(head), *_model_index(head.get("model-index"))]


def _plain_keys(head: Mapping[str, Any]) -> Iterator[str]:
    licence = head.get("license")
    if licence is not None and (not isinstance(licence, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence)):
        yield f"license is {licence!r}, it must be a Hub licence id such as apache-2.0, llama3.1 or other"
    if licence == "other" and not (head.get("license_name") and head.get("license_link")):
        yield "license is other, so license_name and license_link must say which"
    relation = head.get("base_model_relation")
    if relation is not None and relation not in _RELATIONS:
        yield f"base_model_relation is {relation!r}, allowed are {', '.join(_RELATIONS)}"
    for key in ("base_model", "datasets", "language", "tags", "metrics"):
        value = head.get(key)
        if value is None:
            continue
        values = value if isinstance(value, list) else [value]
        if key in ("datasets", "tags", "metrics") and not isinstance(value, list):
            yield f"{key} must be a list"
        for item in values:
            if not isinstance(item, str) or not item:
                yield f"{key} has {item!r}, which is no text (write it in quotes)"
            elif key in ("base_model", "datasets") and not _REPO_ID.fullmatch(item):
                yield f"{key} has {item!r}, which is no Hub id"
            elif key == "language" and not (_LANGUAGE.fullmatch(item) or item in _NO_LANGUAGES):
                yield f"language has {item!r}, which is no ISO 639 code such as en or deu"
    for key in ("library_name", "pipeline_tag"):
        if key in head and not isinstance(head[key], str):
            yield f"{key} is {head[key]!r}, it must be text"


def _model_index(index: Any) -> Iterator[str]:
    if index is None:
        return
    if not isinstance(index, list):
        yield "model-index must be a list"
        return
    for m, model in enumerate(index):
        where = f"model-index[{m}]"
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            yield f"{where}.name must be text"
            continue
        results = model.get("results")
        if not isinstance(results, list):
            yield f"{where}.results must be a list"
            continue
        for r, result in enumerate(results):
            yield from _result(f"{where}.results[{r}]", result)


def _result(where: str, result: Any) -> Iterator[str]:
    if not isinstance(result, dict):
        yield f"{where} must be a mapping"
        return
    if unknown := result.keys() - _RESULT_KEYS:
        yield f"{where} has unknown keys: {', '.join(sorted(unknown))}"
    if not isinstance((result.get("task") or {}).get("type"), str):
        yield f"{where}.task.type must be text"
    dataset = result.get("dataset") or {}
    for key in ("name", "type"):
        if not isinstance(dataset.get(key), str):
            yield f"{where}.dataset.{key} must be text"
    for key in ("config", "split", "revision"):
        if key in dataset and not isinstance(dataset[key], str):
            yield f"{where}.dataset.{key} is {dataset[key]!r}, it must be text (write numbers in quotes)"
    metrics = result.get("metrics")
    if not isinstance(metrics, list) or not metrics:
        yield f"{where}.metrics must be a list with something in it"
        return
    for n, metric in enumerate(metrics):
        value = metric.get("value") if isinstance(metric, dict) else None
        if not isinstance(metric, dict) or not isinstance(metric.get("type"), str):
            yield f"{where}.metrics[{n}].type must be text"
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            yield f"{where}.metrics[{n}].value is {value!r}, it must be a finite number"
