"""Ranks for tests: forked processes joined over gloo (a second; torchrun or spawn would take half a minute)."""

import os
import socket

import torch
import torch.distributed as dist


def run_ranks(function, folder, *arguments, ranks=2, join=True):
    """``function(rank, *arguments)`` in each of ``ranks`` processes; what each returns, in order (through a file).

    ``join=False`` leaves joining them to the function: variables are set as torchrun does, which Lightning finds.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(
        _rank, (function, str(folder), port, ranks, arguments, join), nprocs=ranks, start_method="fork"
    )
    return [torch.load(f"{folder}/rank{rank}.pt", weights_only=True) for rank in range(ranks)]


def _rank(rank, function, folder, port, ranks, arguments, join):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "WORLD_SIZE": str(ranks)}
    if join:
        dist.init_process_group("gloo", rank=rank, world_size=ranks)
    else:
        os.environ |= {"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
        os.environ["TORCHELASTIC_RUN_ID"] = "test"
    try:
        torch.save(function(rank, *arguments), f"{folder}/rank{rank}.pt")
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
