"""datatrove's local executor for a command a user waits for: quiet, and it ends when a process dies.

datatrove's own waits forever for a worker that the kernel killed (``multiprocessing.Pool`` does), and prints every
task's log. The tasks, their logs, statistics and completion marks are datatrove's own.
"""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process

from datatrove.executor.local import LocalPipelineExecutor

from lit_long.errors import UserError


class LocalExecutor(LocalPipelineExecutor):
    """``tasks`` tasks on ``workers`` processes of this machine; finished tasks are not repeated.

    Raises:
        UserError: of a step, as it is; or a worker process was killed.
    """

    def run(self, tell: Callable[[int, int], None] = lambda done, tasks: None) -> None:
        """Run the tasks that are not done.

        Args:
            tell: called with the number of finished tasks and of all, after each.
        """
        import dill

        ranks = self.get_incomplete_ranks()
        if not ranks:
            return
        self.save_executor_as_json()
        packed = dill.dumps(self)
        context = get_context("forkserver")
        context.set_forkserver_preload(
            ["lit_long.data.cluster.local"]
        )  # datatrove is imported once, not in each worker
        with ProcessPoolExecutor(min(self.workers, len(ranks)), mp_context=context, initializer=_worker_begins) as pool:
            running = [pool.submit(_run_task, packed, rank) for rank in ranks]
            try:
                for number, done in enumerate(as_completed(running), self.tasks - len(ranks) + 1):
                    done.result()
                    tell(number, self.tasks)
            except BrokenProcessPool as error:
                raise UserError(
                    f"{self.logging_dir.path}: a worker process was killed, most likely because memory ran out. What "
                    f"is done is kept: give the command again with fewer processes"
                ) from error
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _worker_begins() -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (for the life of the process; everything is in the log files)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed must not write on beside a run that was started again."""
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _run_task(packed: bytes, rank: int) -> None:
    import dill

    dill.loads(packed)._run_for_rank(rank, local_rank=0)
