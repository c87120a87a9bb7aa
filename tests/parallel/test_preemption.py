"""A signal to one rank ends all of them behind the same step, saved; the run goes on as if nothing had been."""

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from lit_long.callbacks.final_checkpoint import FinalCheckpoint
from lit_long.callbacks.preemption import Preemption
from tests.gloo import run_ranks
from tests.parallel.parallel_runs import fit, lines

pytestmark = pytest.mark.filterwarnings("ignore")


class Tell(Callback):
    """Sends rank 1 a signal in the middle of step 2."""

    def __init__(self, which):
        self.which = which

    def on_before_backward(self, trainer, *_):
        if trainer.global_step == 2 and trainer.global_rank == trainer.world_size - 1:
            os.kill(os.getpid(), self.which)


def told(rank, corpus, model, folder, which, mesh):
    calls = []
    import lit_long.callbacks.preemption as preemption

    preemption.subprocess.run = lambda command, check: calls.append(command)
    os.environ["SLURM_JOB_ID"] = "42"
    before = signal.getsignal(which)
    callback = Preemption()
    last = folder / "checkpoints" / "last.ckpt"
    tell = (Tell(which),) if not last.exists() else ()
    ckpt = str(last) if last.exists() else None
    fit(
        corpus, model, folder, mesh=mesh, steps=6, save_every=5, ckpt=ckpt, stop=1,
        callbacks=(FinalCheckpoint(), callback, *tell),
    )  # fmt: skip
    assert signal.getsignal(which) == before
    return {"stopped": callback.stopped and callback.stopped.name, "calls": calls}


@pytest.mark.parametrize("which", [signal.SIGUSR1, signal.SIGTERM])
def test_stops_together_and_goes_on(corpus_dir, tiny_model_dir, tmp_path, which):
    fit(corpus_dir, tiny_model_dir, tmp_path / "straight", steps=6)
    folder: Path = tmp_path / "run"
    arguments = (corpus_dir, tiny_model_dir, folder, which, (1, 2))
    found = run_ranks(told, tmp_path, *arguments, join=False)
    assert [f["stopped"] for f in found] == [which.name] * 2
    assert found[0]["calls"] == ([["scontrol", "requeue", "42"]] if which == signal.SIGUSR1 else [])
    assert found[1]["calls"] == []
    assert max(lines(folder, "loss")) == 2  # the step was brought to its end
    found = run_ranks(told, tmp_path, *arguments, join=False)
    assert [f["stopped"] for f in found] == [None] * 2
    expected, got = lines(tmp_path / "straight", "loss", "grad_norm"), lines(folder, "loss", "grad_norm")
    assert got.keys() == expected.keys()
    for step, values in expected.items():
        assert got[step] == pytest.approx(values, rel=2e-5)
    assert torch.isfinite(torch.tensor([v for values in got.values() for v in values])).all()
