"""Loss of the assistant's tokens, teacher-forced, one conversation a forward pass, logits at these tokens alone.

A small model's free answers are hardly ever right, and its loss on the right answer tells models apart all the same. It
needs no decoding: one pass of the conversation gives the loss of every answer in it, and whether greedy decoding would
have written it (every token of it is the most likely one).

Shape letters: T tokens of a conversation, A of them the assistant's, H hidden size.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lit_long.errors import UserError
from lit_long.evaluation.battery import Progress
from lit_long.evaluation.chats.examples import ChatExample, without_middle
from lit_long.evaluation.raw_store import key_of
from lit_long.evaluation.rows import RowFile
from lit_long.evaluation.token_nll import check_logit_path, check_vocabulary

_FORMAT = 1  # raise it when the meaning of stored rows changes
_LOGIT_CHUNK = 1024


def answer_loss(model: Any, example: ChatExample) -> tuple[float, int, bool]:
    """Loss of a conversation's answers.

    Args:
        model: a Hugging Face causal LM in eval mode that computes logits as decoder, then output embedding (see
            :func:`lit_long.evaluation.token_nll.check_logit_path`).
        example: at least one of its tokens behind the first is the assistant's.

    Returns:
        Sum of the losses in nats, number of tokens, and whether every one of them is the most likely token.

    Raises:
        UserError: the loss is NaN or infinite.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    ids = torch.from_numpy(example.ids.astype("int64")).to(head.weight.device)
    target_A = torch.from_numpy(example.assistant[1:].nonzero()[0] + 1).to(ids.device)
    with torch.inference_mode():
        hidden_TH = decoder(input_ids=ids[None, :-1], use_cache=False).last_hidden_state[0]
        loss, greedy = 0.0, True
        for places in target_A.split(_LOGIT_CHUNK):
            logits = head(hidden_TH[places - 1]).float()
            loss += nn.functional.cross_entropy(logits, ids[places], reduction="none").double().sum().item()
            greedy = greedy and bool((logits.argmax(-1) == ids[places]).all())
    if not abs(loss) < float("inf"):
        raise UserError(
            f"{example.place}: the loss of the answer is {loss}: the model is broken there. Look for NaN or infinite "
            "weights, or a length at which its position embedding overflows."
        )
    return loss, len(target_A), greedy


def measure_chats(
    model: Any,
    examples: Sequence[ChatExample],
    *,
    keep: int | None,
    file: Path,
    model_key: str,
    name: str,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Rows of all examples; those that an earlier run of the same model finished are taken as they are.

    Args:
        model: in eval mode.
        examples: what to measure.
        keep: tokens of the longest input that are kept in the control without the document; ``None``: no control.
        file: where rows go, as JSON lines.
        model_key: from :func:`lit_long.evaluation.raw_store.model_key`.
        name: of the model, for the progress bar.
        progress: hears about finished tokens.

    Returns:
        A row an example: ``id``, ``source``, ``place``, ``group``, ``tokens``, ``answer_tokens``, ``nll`` (nats per
        token of the answer), ``greedy``, and ``short_tokens``, ``short_nll`` where there is something to leave out.

    Raises:
        UserError: see :func:`answer_loss`; token ids beyond the vocabulary.
    """
    every = torch.from_numpy(np.concatenate([example.ids for example in examples]))
    check_vocabulary(model, every)
    check_logit_path(model, every.long())
    header = {"key": key_of([_FORMAT, model_key, keep]), "model": name, "kept_input_tokens": keep}
    progress.start(name, sum(len(example.ids) for example in examples))
    with RowFile(file, header) as rows:
        for example in examples:
            if example.id not in rows.rows:
                rows.add(_row(model, example, keep))
            progress.advance(len(example.ids))
        return [rows.rows[example.id] for example in examples]


def _row(model: Any, example: ChatExample, keep: int | None) -> dict[str, Any]:
    loss, count, greedy = answer_loss(model, example)
    row: dict[str, Any] = {
        "id": example.id,
        "source": example.source,
        "place": example.place,
        "group": example.group,
        "tokens": len(example.ids),
        "answer_tokens": count,
        "nll": loss / count,
        "greedy": greedy,
    }
    short = None if keep is None else without_middle(example, keep)
    if short is not None:
        row |= {"short_tokens": len(short.ids), "short_nll": answer_loss(model, short)[0] / count}
    return row
