"""What the numbers say, in sentences that are computed from them and claim no more than their intervals allow."""

from itertools import combinations

from lit_long.evaluation.battery import Evaluation, ModelResult
from lit_long.evaluation.intervals import Estimate, cluster_estimate
from lit_long.evaluation.position_loss import change_beyond, paired_difference


def verdict(evaluation: Evaluation) -> list[str]:
    """Sentences on an evaluation: each model beyond its native length, models against each other, context controls.

    A difference is stated as one only where its 95 % interval excludes zero.
    """
    sentences = [sentence for model in evaluation.models for sentence in _beyond(model, evaluation.native_length)]
    sentences += [sentence for model in evaluation.models for sentence in _extrapolation(model, evaluation)]
    for first, second in combinations(evaluation.models, 2):
        sentences += _pair(first, second, evaluation.native_length)
    for model in evaluation.models:
        sentences += _context(model, evaluation)
    return sentences


def signed(estimate: Estimate) -> str:
    """``+0.123 ± 0.045`` (95 %), or without interval ``+0.123``."""
    half = "" if estimate.half_width is None else f" ± {estimate.half_width:.3f}"
    return f"{estimate.mean:+.3f}{half}"


def _doubt(estimate: Estimate) -> str:
    if estimate.half_width is None:
        return "one cluster gives no interval, so nothing can be concluded"
    return "the 95 % interval includes zero, so no difference is shown"


def _beyond(model: ModelResult, native: int) -> list[str]:
    change, beyond, reference = model.position.beyond_change, model.position.beyond_native, model.position.reference
    if change is None or beyond is None:
        return [
            f"{model.name}: windows of {model.position.windows.length:,} tokens do not reach beyond the native length "
            f"of {native:,}, so nothing is said about longer contexts."
        ]
    verb = {1: "rises", -1: "falls", 0: "goes"}[change.direction]
    doubt = "" if change.direction else f"; {_doubt(change)}"
    return [
        f"Beyond {native:,} tokens the loss of {model.name} {verb} from {reference.loss.mean:.3f} (positions "
        f"{reference.first:,}-{reference.last:,}) to {beyond.loss.mean:.3f} (positions {beyond.first:,}-"
        f"{beyond.last:,}): {signed(change)} nats per token{doubt}."
    ]


def _extrapolation(model: ModelResult, evaluation: Evaluation) -> list[str]:
    """Beyond the length a model was trained on, where that is not the native one (of which :func:`_beyond` speaks)."""
    if model.window is None or model.window == evaluation.native_length:
        return []
    change = change_beyond(model.position, model.window)
    if change is None:
        return []
    verb = {1: "rises", -1: "falls", 0: "changes"}[change.direction]
    doubt = "" if change.direction else f"; {_doubt(change)}"
    return [
        f"Extrapolation: beyond its own window of {model.window:,} tokens the loss of {model.name} {verb} by "
        f"{signed(change)} nats per token against the second half of it{doubt}."
    ]


def _pair(first: ModelResult, second: ModelResult, native: int) -> list[str]:
    difference = paired_difference(first.position, second.position)
    sentences = []
    for where, estimate in (
        (f"Inside the first {native:,} tokens", difference.within_native),
        (f"Beyond {native:,} tokens", difference.beyond_native),
    ):
        if estimate is None:
            continue
        if estimate.direction:
            relation = "lower" if estimate.direction < 0 else "higher"
            text = (
                f"the loss of {second.name} is {relation} than that of {first.name}: {signed(estimate)} nats per token"
            )
        else:
            text = f"{second.name} and {first.name} differ by {signed(estimate)} nats per token: {_doubt(estimate)}"
        sentences.append(f"{where} {text}.")
    return sentences


def _context(model: ModelResult, evaluation: Evaluation) -> list[str]:
    context = model.context
    if context is None:
        return []
    full = evaluation.windows.length
    subject = f"{model.name}, last {context.plan.target_tokens:,} tokens"
    sentences = [
        _against(subject, full, f"its own best truncation ({context.best_truncation:,})", context.full_minus_best)
    ]
    best = best_truncation(evaluation)
    if best is not None and best[0] is not model:
        other, length = best
        assert other.context is not None
        column = other.context.plan.contexts.index(length)
        difference = context.window_loss[:, -1] - other.context.window_loss[:, column]
        rival = f"the best truncation of any model here ({other.name}, {length:,})"
        sentences.append(_against(subject, full, rival, cluster_estimate(difference, evaluation.windows.clusters)))
    if context.prefix_gain is not None:
        donor = "another document" if context.foreign_documents else "another window (partly of the same document)"
        says = {
            1: "the content of the far prefix is used",
            -1: "the true far prefix hurts more than a foreign one",
            0: _doubt(context.prefix_gain),
        }[context.prefix_gain.direction]
        sentences.append(
            f"{subject}: taking all but the nearest {context.plan.kept:,} tokens from {donor} changes the loss by "
            f"{signed(context.prefix_gain)} nats per token: {says}."
        )
    return sentences


def best_truncation(evaluation: Evaluation) -> tuple[ModelResult, int] | None:
    """The model and context, shorter than the window, with the lowest mean loss on the target tokens."""
    measured = [model for model in evaluation.models if model.context is not None]
    if not measured:
        return None

    def lowest(model: ModelResult) -> float:
        assert model.context is not None
        return float(model.context.window_loss[:, :-1].mean(dim=0).min())

    winner = min(measured, key=lowest)
    assert winner.context is not None
    return winner, winner.context.best_truncation


def _against(subject: str, full: int, rival: str, difference: Estimate) -> str:
    judged = {-1: "beats", 1: "is worse than", 0: "is not shown to differ from"}[difference.direction]
    doubt = "" if difference.direction else f" ({_doubt(difference)})"
    return f"{subject}: the full context of {full:,} {judged} {rival}, {signed(difference)} nats per token{doubt}."
