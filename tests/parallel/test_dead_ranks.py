"""A rank that is dead or hangs ends the job, and does not let it wait for ever."""

import os
import signal
import socket
import time
from datetime import timedelta

import pytest
import torch
from lightning.pytorch import Callback

from tests.parallel.parallel_runs import fit


class Signal(Callback):
    """Sends itself a signal in the middle of a step."""

    def __init__(self, which):
        self.which = which

    def on_before_backward(self, trainer, *_):
        if trainer.global_step == 1 and trainer.global_rank == 1:
            os.kill(os.getpid(), self.which)


def child(rank, port, corpus, model, folder, which):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
    }  # fmt: skip
    torch.set_num_threads(1)
    try:
        fit(corpus, model, folder, mesh=(1, 2), timeout=timedelta(seconds=4), callbacks=(Signal(which),))
    except BaseException as error:
        (folder / f"error{rank}.txt").write_text(f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)


@pytest.mark.parametrize("which", [signal.SIGKILL, signal.SIGSTOP], ids=["dead", "hangs"])
def test_the_others_end_with_a_message(corpus_dir, tiny_model_dir, tmp_path, which):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    numbers = []
    for rank in range(2):
        if (number := os.fork()) == 0:
            child(rank, port, corpus_dir, tiny_model_dir, tmp_path, which)
        numbers.append(number)
    try:
        until = time.monotonic() + 60
        done = 0
        while not done and time.monotonic() < until:
            done, status = os.waitpid(numbers[0], os.WNOHANG)
            time.sleep(0.05)
        assert done, "rank 0 waits for ever"
        assert os.waitstatus_to_exitcode(status) == 1
    finally:
        for number in numbers[1 if done else 0 :]:
            os.kill(number, signal.SIGKILL)
            os.waitpid(number, 0)
    message = (tmp_path / "error0.txt").read_text()
    assert "UserError" in message
    assert "another process of this run" in message
