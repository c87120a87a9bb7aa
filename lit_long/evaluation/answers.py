"""Greedy answers to prompts, and the log-likelihood of the right answer, from one reading of the prompt.

Reading a 16K prompt costs a hundred times what its answer costs, so prompt and key/value cache are used twice: for
greedy decoding, and, cut back to the prompt, for the teacher-forced loss of the gold answer. Small models score 0 by
exact match long before their loss on the right answer says nothing.

Shape letters: B prompts in a batch, P tokens of the longest prompt, A tokens of the longest gold answer.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_long.attention import PACKED
from lit_long.errors import UserError

IGNORED = -100
_LAST_WORD = re.compile(r"\S+\s*$")


@dataclass(frozen=True)
class Gold:
    """A right answer: the last characters of the prompt, and the text behind them (with a space in front, if any)."""

    prompt_end: str
    text: str


@dataclass(frozen=True)
class Answer:
    """What a model said to one prompt.

    Attributes:
        text: decoded answer, cut at the stop.
        tokens: generated tokens, the end token not counted.
        stopped: whether it ended by itself (end token or stop), not by the limit.
        gold_nll: mean loss of the gold answer's tokens in nats, where one was given.
        gold_tokens: tokens of the gold answer.
    """

    text: str
    tokens: int
    stopped: bool
    gold_nll: float | None = None
    gold_tokens: int = 0


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    *,
    new_tokens: int,
    stop_at_newline: bool = False,
    golds: Sequence[Gold | None] | None = None,
) -> list[Answer]:
    """Answer a batch of prompts greedily.

    Args:
        model: a Hugging Face causal LM in eval mode.
        tokenizer: its tokenizer.
        prompts: token ids, padded on the left to the longest. Models on packed attention take one at a time.
        new_tokens: most tokens of an answer.
        stop_at_newline: whether an answer ends with its first line (base models go on with another question).
        golds: right answers whose loss is wanted, one a prompt; ``None`` for a prompt without.

    Raises:
        UserError: the loss of a gold answer is NaN or infinite.
    """
    packed = model.config._attn_implementation == PACKED
    assert not packed or len(prompts) == 1, "packed attention takes no padding"
    device = next(model.parameters()).device
    pad = _pad_id(tokenizer)
    ids_BP, mask_BP = _left_padded(prompts, pad, device)
    P = ids_BP.shape[1]
    with torch.inference_mode():
        result = model.generate(
            input_ids=ids_BP,
            attention_mask=mask_BP,
            generation_config=_greedy(model, tokenizer, new_tokens, pad, use_cache=not packed),
            stopping_criteria=_line_end(tokenizer, P) if stop_at_newline else None,
        )
        nll: list[tuple[float | None, int]] = [(None, 0)] * len(prompts)
        if golds is not None:
            cache = None if packed else _cut_back(result.past_key_values, P - 1)
            nll = _gold_nll(model, tokenizer, ids_BP, mask_BP, golds, cache)
    ends = _end_ids(model, tokenizer)
    answers = []
    for row, (loss, count) in zip(result.sequences[:, P:].tolist(), nll, strict=True):
        while row and row[-1] == pad:  # behind a row that ended before others
            row.pop()
        end = next((i for i, token in enumerate(row) if token in ends), None)
        text = tokenizer.decode(row if end is None else row[:end], skip_special_tokens=True)
        line = _first_line(text) if stop_at_newline else None
        stopped = end is not None or line is not None or len(row) < result.sequences.shape[1] - P
        answers.append(
            Answer(text.strip() if line is None else line, len(row) if end is None else end, stopped, loss, count)
        )
    return answers


def gold_behind(prompt: str, reference: str) -> Gold:
    """The gold answer behind a prompt's text: a space in front, unless the prompt ends in white space itself."""
    end = _LAST_WORD.search(prompt)
    text = reference.strip()
    return Gold(end.group() if end else "", text if not prompt or prompt[-1].isspace() else f" {text}")


def continuation_ids(tokenizer: Any, gold: Gold) -> list[int]:
    """Token ids of a gold answer behind its prompt.

    Encoded together with the prompt's end, since SentencePiece tokenizers (Llama 2) put a space of their own in front
    of whatever they encode alone.
    """
    front: list[int] = tokenizer(gold.prompt_end, add_special_tokens=False)["input_ids"]
    both: list[int] = tokenizer(gold.prompt_end + gold.text, add_special_tokens=False)["input_ids"]
    if both[: len(front)] == front:
        return both[len(front) :]
    # A token across the border, which the prompt cannot have: the prompt's ids are already what they are.
    alone: list[int] = tokenizer(gold.text, add_special_tokens=False)["input_ids"]
    return alone


def _gold_nll(
    model: Any, tokenizer: Any, ids_BP: Tensor, mask_BP: Tensor, golds: Sequence[Gold | None], cache: Any
) -> list[tuple[float | None, int]]:
    """Mean loss of each gold answer behind its prompt; with a cache of all but the prompt's last token, or without."""
    B, device = len(golds), ids_BP.device
    gold_ids = [[] if gold is None else continuation_ids(tokenizer, gold) for gold in golds]
    A = max(len(ids) for ids in gold_ids)
    if A == 0:
        return [(None, 0)] * B
    target_BA = torch.full((B, A), IGNORED, device=device)
    for row, ids in enumerate(gold_ids):
        target_BA[row, : len(ids)] = torch.tensor(ids, device=device)
    # Behind the end of a gold answer stands any token: nothing that is scored can see it.
    input_ids = torch.cat([ids_BP, target_BA[:, :-1].clamp_min(0)], dim=1)
    mask = torch.cat([mask_BP, mask_BP.new_ones(B, A - 1)], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    if cache is None:
        if not bool(mask.all()):
            extra = {"attention_mask": mask, "position_ids": positions}
        else:  # packed attention finds documents by restarts of the positions and takes no mask
            extra = {"position_ids": positions}
        logits = model(input_ids=input_ids, use_cache=False, logits_to_keep=A, **extra).logits
    else:
        logits = model(
            input_ids=input_ids[:, -A:],
            attention_mask=mask,
            position_ids=positions[:, -A:],
            past_key_values=cache,
            logits_to_keep=A,
        ).logits
    losses_BA = torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), target_BA.flatten(), reduction="none", ignore_index=IGNORED
    ).view(B, A)
    if not bool(losses_BA.isfinite().all()):
        raise UserError(
            "The loss of a gold answer is NaN or infinite: the model is broken there. Look for NaN or infinite "
            "weights, or a length at which its position embedding overflows."
        )
    sums = losses_BA.double().sum(-1).tolist()
    return [(total / len(ids), len(ids)) if ids else (None, 0) for total, ids in zip(sums, gold_ids, strict=True)]


def _cut_back(cache: Any, length: int) -> Any:
    """The cache cut to its first ``length`` tokens, or ``None`` where its layers cannot be (sliding windows)."""
    from transformers.cache_utils import DynamicLayer

    if cache is None or not all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None])):
        return None
    surplus = cache.get_seq_length() - length
    if length == 0:
        return None
    if surplus > 0:
        cache.crop(-surplus)
    return cache


def _left_padded(prompts: Sequence[list[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    B, P = len(prompts), max(map(len, prompts))
    ids, mask = torch.full((B, P), pad), torch.zeros(B, P, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, P - len(prompt) :] = torch.tensor(prompt)
        mask[row, P - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


def _greedy(model: Any, tokenizer: Any, new_tokens: int, pad: int, *, use_cache: bool) -> Any:
    """A config of its own: the model's may ask for sampling, penalties or a length."""
    from transformers import GenerationConfig

    ends = sorted(_end_ids(model, tokenizer))
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad,
        use_cache=use_cache,
        return_dict_in_generate=True,  # and with it the cache
    )


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    own = getattr(model.generation_config, "eos_token_id", None)
    ids = own if isinstance(own, list) else [own]
    return {i for i in [*ids, tokenizer.eos_token_id] if i is not None}


def _pad_id(tokenizer: Any) -> int:
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0  # masked, so any id does


def _first_line(text: str) -> str | None:
    """The first line that is not blank, if it has ended."""
    line, newline, _ = text.lstrip().partition("\n")
    return line.strip() if newline else None


def _line_end(tokenizer: Any, prompt: int) -> Any:
    """Stops each row at the end of its first line; ``stop_strings`` would stop at a newline before any word, too."""
    from transformers import StoppingCriteria, StoppingCriteriaList

    class LineEnd(StoppingCriteria):
        def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
            texts = tokenizer.batch_decode(input_ids[:, prompt:], skip_special_tokens=True)
            done = [_first_line(text) is not None for text in texts]
            return torch.tensor(done, device=input_ids.device)

    return StoppingCriteriaList([LineEnd()])
