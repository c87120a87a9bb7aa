"""A transformers chat model in this process: the requests that wait are generated as one batch.

Each row samples with a seed of its own (the Gumbel trick: the largest of log-probability plus Gumbel noise is a
sample), so that a reply depends on its request and not on who else is in the batch, up to the rounding of padding.
"""

import asyncio
from dataclasses import replace

import torch

from lit_long.data.tokenizer import load_tokenizer
from lit_long.errors import UserError
from lit_long.synthesis.client import PromptTooLongError, Reply, Request, Usage
from lit_long.synthesis.config import Local

_GATHER_SECONDS = 0.02  # for requests that come together


class LocalClient:
    """A :class:`~lit_long.synthesis.client.Client` that generates here.

    Args:
        config: which model, and where it runs.

    Raises:
        UserError: the model cannot be loaded, or its tokenizer has no chat template.
    """

    def __init__(self, config: Local) -> None:
        from transformers import AutoModelForCausalLM

        self._config = config
        self.tokenizer = load_tokenizer(config.model)
        if not self.tokenizer.chat_template:
            raise UserError(f"generator.model {config.model}: no chat template; give a chat (instruct) model")
        device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self._model = AutoModelForCausalLM.from_pretrained(
                config.model, dtype=config.dtype, trust_remote_code=False, use_safetensors=True
            ).to(device)
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"generator.model {config.model}: cannot be loaded ({str(error).splitlines()[0]})"
            ) from error
        self._model.eval()
        ends = self._model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        self._ends = sorted({end for end in [*ends, self.tokenizer.eos_token_id] if end is not None})
        self._waiting: asyncio.Queue[tuple[Request, list[int], asyncio.Future[Reply]]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    async def reply(self, request: Request, usage: Usage) -> Reply:
        """See :class:`~lit_long.synthesis.client.Client`."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": request.prompt}], tokenize=False, add_generation_prompt=True
        )
        opening = request.opening if self._config.begin_reply else ""
        ids = self.tokenizer(text + opening, add_special_tokens=False)["input_ids"]
        if len(ids) + request.max_tokens > self._config.context_length:
            raise PromptTooLongError(f"{len(ids)} tokens")
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        await self._waiting.put((request, ids, future))
        answer = await future
        answer = replace(answer, text=opening + answer.text)
        usage.requests += 1
        usage.prompt_tokens += answer.prompt_tokens
        usage.completion_tokens += answer.completion_tokens
        return answer

    async def close(self) -> None:
        """See :class:`~lit_long.synthesis.client.Client`."""
        if self._worker is not None:
            self._worker.cancel()

    async def _work(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(_GATHER_SECONDS)
            while len(batch) < self._config.concurrency and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            try:
                replies = await asyncio.to_thread(self._generate, [(request, ids) for request, ids, _ in batch])
            except Exception as error:  # to whoever waits for a reply; the run ends with it
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(_explained(error))
                continue
            for (_, _, future), reply in zip(batch, replies, strict=True):
                if not future.done():
                    future.set_result(reply)

    @torch.inference_mode()
    def _generate(self, batch: list[tuple[Request, list[int]]]) -> list[Reply]:
        from transformers import GenerationConfig, LogitsProcessorList

        width = max(len(ids) for _, ids in batch)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self._ends[0]
        input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for _, ids in batch])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for _, ids in batch])
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max(request.max_tokens for request, _ in batch),
            eos_token_id=self._ends,
            pad_token_id=pad,
        )
        out = self._model.generate(
            input_ids.to(self._model.device),
            attention_mask=mask.to(self._model.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([RowSampling([request for request, _ in batch])]),
        )
        replies = []
        for (request, ids), row in zip(batch, out[:, width:].tolist(), strict=True):
            row = row[: request.max_tokens]
            end = next((i for i, token in enumerate(row) if token in self._ends), None)
            text = self.tokenizer.decode(row if end is None else row[:end], skip_special_tokens=True)
            spent = len(row) if end is None else end + 1
            replies.append(Reply(text, "length" if end is None else "stop", len(ids), spent))
        return replies


class RowSampling:
    """A transformers logits processor: rows of one batch, each with its temperature, top_p and seed.

    What it returns is for greedy search: scores whose largest entry is the sample.
    """

    def __init__(self, requests: list[Request]) -> None:
        self._requests = requests
        self._noise = [torch.Generator().manual_seed(request.seed) for request in requests]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [rows, vocabulary], float32."""
        scores = scores.float()
        rows = []
        for row, request, noise in zip(scores, self._requests, self._noise, strict=True):
            if request.temperature > 0:
                row = _nucleus(torch.log_softmax(row / request.temperature, -1), request.top_p)
                uniform = torch.rand(row.shape, generator=noise).clamp_min(1e-20).to(row.device)
                row = row - torch.log(-torch.log(uniform))
            rows.append(row)
        return torch.stack(rows)


def _nucleus(logprobs: torch.Tensor, top_p: float) -> torch.Tensor:
    """-inf for all but the likeliest tokens whose probabilities first add up to ``top_p``."""
    if top_p >= 1:
        return logprobs
    ordered, order = logprobs.sort(descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    return logprobs.index_fill(-1, order[before >= top_p], -torch.inf)


def _explained(error: Exception) -> Exception:
    if isinstance(error, torch.OutOfMemoryError):
        return UserError("generator: out of GPU memory; lower generator.concurrency or generator.context_length")
    return error
