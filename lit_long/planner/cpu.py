"""This machine as a device: what it reaches is measured in a few seconds, since no table knows it."""

import time
from collections.abc import Callable

import torch

from lit_long.hardware import Device
from lit_long.model.memory import device_memory

_LINK = 1e9  # bytes/s between processes of one machine through gloo; an assumption


def this_cpu(processes: int = 1) -> Device:
    """The CPU of this machine, for ``processes`` that share it.

    Matrix products of 1,024 x 1,024 in both precisions, causal attention over 2,048 tokens forward and backward, and a
    copy of 256 MB, each the best of three with the threads that PyTorch has.
    """
    fp32 = 2 * 1024**3 / _best(_product(torch.float32))
    bf16 = 2 * 1024**3 / _best(_product(torch.bfloat16))
    block = torch.empty(64 * 2**20)
    copied = 2 * block.nbytes / _best(lambda: block.clone())
    share = _attention_flops() / fp32
    return Device(
        name="cpu",
        memory=device_memory(torch.device("cpu"), processes),
        bf16=max(bf16, fp32) / processes,
        fp32=fp32 / processes,
        bandwidth=copied / processes,
        link=_LINK,
        network=_LINK,
        host=copied / processes,
        node=processes,
        matmul=1.0,
        attention=min(1.0, share),
        source="measured here",
        efficiency="measured here",
    )


def _product(dtype: torch.dtype) -> Callable[[], object]:
    left, right = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    return lambda: left @ right


def _attention_flops() -> float:
    query, key, value = (torch.randn(1, 8, 2048, 64, requires_grad=True) for _ in range(3))

    def run() -> None:
        torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True).sum().backward()

    return 3 * 2 * 2 * 8 * 64 * (2048 * 2049 / 2) / _best(run)


def _best(run: Callable[[], object]) -> float:
    run()
    times = []
    for _ in range(3):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)
