"""Negative log-likelihood of every token of a window, without ever holding a window's logits.

A 32K window over a 128K vocabulary is 16.8 GB of float32 logits; in slices of 1,024 tokens it is 0.5 GB. So the decoder
runs once and the output embedding is applied slice by slice. That equals ``model(...).logits`` only for models that do
nothing else to their logits, which :func:`check_logit_path` proves on 16 tokens before anything is measured.

Shape letters: N windows, B windows per forward, S predictions per window, H hidden size, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lit_long.errors import UserError
from lit_long.evaluation.reach import check_learned_positions

_TOKENS_PER_FORWARD = 16384
_PROBE_TOKENS = 16


def position_nll(
    model: nn.Module,
    windows_ids: Tensor,
    *,
    batch_size: int | None = None,
    logit_chunk: int = 1024,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Loss of each next token of each window.

    Args:
        model: A Hugging Face causal language model; put into eval mode for the call.
        windows_ids: int64 [N, S + 1] token ids, on any device.
        batch_size: Windows per forward; by default as many as make 16,384 tokens, at least one.
        logit_chunk: Tokens whose logits exist at one time.
        progress: Called with the number of input tokens just finished.

    Returns:
        float32 [N, S] on the CPU, in nats: column i is the loss of token i + 1 given the i + 1 tokens before it.

    Raises:
        UserError: A token id is outside the model's vocabulary, the windows are longer than its table of learned
            positions, the model changes its logits after the output embedding (soft-capping, scaling), or a loss is NaN
            or infinite.
    """
    check_vocabulary(model, windows_ids)
    check_learned_positions(model, windows_ids.shape[1] - 1)
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            check_logit_path(model, windows_ids[0])
            return _position_nll(model, windows_ids, batch_size, logit_chunk, progress)
    finally:
        model.train(was_training)


def _position_nll(
    model: Any, windows_ids: Tensor, batch_size: int | None, logit_chunk: int, progress: Callable[[int], None] | None
) -> Tensor:
    N, S = windows_ids.shape[0], windows_ids.shape[1] - 1
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    device = head.weight.device
    nll_NS = torch.empty(N, S, dtype=torch.float32)
    B = batch_size or max(1, _TOKENS_PER_FORWARD // S)
    for start in range(0, N, B):
        batch = windows_ids[start : start + B].to(device)
        hidden_BSH = decoder(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
        hidden, targets = hidden_BSH.flatten(0, 1), batch[:, 1:].flatten()
        losses = [
            # float() because a bf16 log-sum-exp over 10^5 words is off by more than the differences measured here
            nn.functional.cross_entropy(head(part).float(), target, reduction="none")
            for part, target in zip(hidden.split(logit_chunk), targets.split(logit_chunk), strict=True)
        ]
        nll_BS = torch.cat(losses).view(len(batch), S).cpu()
        if not nll_BS.isfinite().all():
            window, position = (~nll_BS.isfinite()).nonzero()[0].tolist()
            raise UserError(
                f"The loss of model type '{_model_type(model)}' is {nll_BS[window, position].item()} at window "
                f"{start + window}, position {position + 1}: the model is broken there and no mean of it would say "
                "anything. Look for NaN or infinite weights, or a length at which its position embedding overflows."
            )
        nll_NS[start : start + B] = nll_BS
        if progress is not None:
            progress(len(batch) * S)
    return nll_NS


def check_vocabulary(model: Any, windows_ids: Tensor) -> None:
    """Refuse token ids that the model has no embedding for: the corpus was made with another tokenizer.

    Raises:
        UserError: With the largest id and the model's vocabulary size.
    """
    size, largest = model.config.get_text_config().vocab_size, int(windows_ids.max())
    if largest >= size:
        raise UserError(
            f"The windows hold token id {largest:,}, but model type '{_model_type(model)}' has a vocabulary of "
            f"{size:,}: the corpus was tokenised with another tokenizer. Prepare it with this model's tokenizer, or "
            "evaluate models that share the corpus's tokenizer."
        )


def check_logit_path(model: Any, window_ids: Tensor) -> None:
    """Prove on 16 tokens that decoder and output embedding give the model's own logits.

    Args:
        model: A Hugging Face causal language model in eval mode.
        window_ids: int64 [at least 1] token ids inside the vocabulary.

    Raises:
        UserError: The model has no separate decoder and output embedding, or changes its logits afterwards
            (``final_logit_softcapping``, ``logit_scale``, ``logits_scaling``, ...).
    """
    config = model.config.get_text_config()
    neutral = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
    found = {key: getattr(config, key, value) for key, value in neutral.items()}
    # A soft cap is invisible on the small logits of an untrained model, so the config is asked as well as the probe.
    changed = [f"{key}={found[key]}" for key, value in neutral.items() if found[key] not in (None, value)]
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if not changed and head is not None and decoder is not model:
        ids = window_ids[None, :_PROBE_TOKENS].to(head.weight.device)
        stock = model(input_ids=ids, use_cache=False).logits.float()
        ours = head(decoder(input_ids=ids, use_cache=False).last_hidden_state).float()
        # A NaN is no difference of path; the measurement reports it with its place.
        if torch.allclose(stock, ours, rtol=1e-3, atol=1e-3, equal_nan=True):
            return
        changed = [f"logits differ by up to {(stock - ours).abs().max().item():.3g} on {ids.shape[1]} tokens"]
    reason = ", ".join(changed) or "no separate decoder and output embedding"
    raise UserError(
        f"Model type '{_model_type(model)}' does not compute its logits as decoder, then output embedding ({reason}), "
        "so its loss cannot be taken in slices. Models that do (Llama, Mistral, Qwen, SmolLM, OLMo, GPT-NeoX, ...) can "
        "be evaluated."
    )


def _model_type(model: Any) -> str:
    return str(model.config.model_type)
