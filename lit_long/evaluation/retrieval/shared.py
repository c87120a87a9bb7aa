"""Many needles in one text, each asked for behind the same reading of it.

Reading 16K tokens costs a hundred times what a question costs, so ``needles`` hides one number at every depth of the
grid in one text, reads the text once, keeps keys and values, and asks for each number in turn, cutting the cache back
in between. That is exactly what a forward pass over text, question and answer gives, as long as every layer attends to
everything before it; models with sliding windows or recurrent layers, on packed attention, or inside a run get that
forward pass for each question instead. Each needle has the others as distractors, as in RULER's multi-key task.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lit_long.errors import UserError
from lit_long.evaluation.retrieval.haystack import Haystack
from lit_long.evaluation.retrieval.tasks import PLACES, asked, fact
from lit_long.model.forward import output_transform, unwrapped

NAME = "needles"
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SharedText:
    """One text with several needles, and the questions about it.

    Attributes:
        text: int64 [P] tokens of the text, needles included.
        control: int64 [P]: the same without needles, other text in their place.
        tails: int64 each: a question and its answer. The longest ends at the length that was asked for, the others a
            few tokens before it.
        answers: tokens of each answer, at the end of its tail.
        depths: where each needle really begins, as a share of the text.
    """

    text: Int64
    control: Int64
    tails: tuple[Int64, ...]
    answers: tuple[int, ...]
    depths: tuple[float, ...]


def make_shared(
    haystack: Haystack, *, length: int, depths: Sequence[float], sample: int, seed: int, first: int | None = None
) -> SharedText:
    """Hide a needle at every depth of one text; the same arguments give the same text on every machine.

    Args:
        haystack: text to hide things in.
        length: tokens of text, longest question and answer.
        depths: where the needles stand, 0 (beginning) to 1 (end of the text).
        sample: number of the text.
        seed: of everything random.
        first: token that the text begins with (BOS), counted in ``length``.

    Raises:
        UserError: more depths than there are names, the length is too short, or the text too short for the length.
    """
    if len(depths) > len(PLACES):
        raise UserError(f"{NAME}: at most {len(PLACES)} depths, got {len(depths)}")
    name = f"{seed}:{NAME}:{length}:{','.join(f'{depth:g}' for depth in depths)}:{sample}"
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    places = [str(place) for place in rng.choice(PLACES, len(depths), replace=False)]
    numbers = [str(rng.integers(1_000_000, 10_000_000)) for _ in places]
    hidden = [haystack.ids(fact(*pair)) for pair in zip(places, numbers, strict=True)]
    tails, answers = [], []
    for place, number in zip(places, numbers, strict=True):
        question = haystack.ids(asked(place))
        answer = haystack.ids_behind(asked(place), f" {number}")
        tails.append(np.concatenate([question, answer]))
        answers.append(len(answer))
    lead = np.array([] if first is None else [first], dtype=np.int64)
    room, size = length - len(lead) - max(map(len, tails)), sum(map(len, hidden))
    if room < 2 * size:
        raise UserError(f"{NAME}: {length} tokens are too short to hide {size} tokens in; take at least {4 * size}")
    plain = haystack.stretch(room, rng)
    hay = plain[: room - size]
    cuts = [haystack.cut_near(hay, round(depth * len(hay))) for depth in depths]
    parts, before, shift, found = [lead], 0, 0, [0.0] * len(cuts)
    for cut, index in sorted(zip(cuts, range(len(cuts)), strict=True)):
        parts += [hay[before:cut], hidden[index]]
        found[index] = (cut + shift) / room
        before, shift = cut, shift + len(hidden[index])
    text = np.concatenate([*parts, hay[before:]])
    return SharedText(text, np.concatenate([lead, plain]), tuple(tails), tuple(answers), tuple(found))


def can_share(model: Any) -> bool:
    """Whether keys and values of a text, cut back after each question, are those of a forward pass over everything."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None) is not None:
        return False
    plain = str(getattr(config, "_attn_implementation", "")) in ("sdpa", "eager", "flash_attention_2")
    return plain and kinds == {"full_attention"}


def shared_scores(
    model: Any, text: Int64, tails: Sequence[Int64], answers: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Losses float32 [answer] and hits bool [answer] of each answer behind the text, which is read once.

    Args:
        model: a transformers causal LM for which :func:`can_share` holds; put into eval mode for the call.
        text: int64 [P].
        tails: question and answer, int64 each.
        answers: tokens of each answer.

    Raises:
        UserError: a loss is NaN or infinite.
    """
    inner, device = unwrapped(model), next(model.parameters()).device
    decoder, head, transform = inner.get_decoder(), inner.get_output_embeddings(), output_transform(inner.config)
    was_training = model.training
    model.eval()
    found = []
    try:
        with torch.inference_mode():
            cache = decoder(input_ids=torch.from_numpy(text)[None].to(device), use_cache=True).past_key_values
            for tail, count in zip(tails, answers, strict=True):
                ids = torch.from_numpy(tail).to(device)
                states = decoder(input_ids=ids[None, :-1], past_key_values=cache, use_cache=True).last_hidden_state
                cache.crop(-(len(ids) - 1))
                logits = head(states[0, -count:]).float() * transform.scale
                if transform.softcap is not None:
                    logits = transform.softcap * torch.tanh(logits / transform.softcap)
                nll = torch.nn.functional.cross_entropy(logits, ids[-count:], reduction="none").cpu()
                if not bool(nll.isfinite().all()):
                    raise UserError(f"{NAME}: the loss of an answer is NaN or infinite; the model is broken there")
                found.append((nll, (logits.argmax(dim=-1) == ids[-count:]).cpu()))
    finally:
        model.train(was_training)
    return found
