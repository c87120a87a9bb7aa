"""All long question tasks by name, and what a user's word for them stands for."""

from collections.abc import Sequence

from lit_long.errors import UserError
from lit_long.evaluation.long_qa import l_eval, scrolls, zero_scrolls
from lit_long.evaluation.long_qa.tasks import LongTask

TASKS: dict[str, LongTask] = {task.name: task for task in (*scrolls.TASKS, *zero_scrolls.TASKS, *l_eval.TASKS)}
GROUPS = ("scrolls", "zero_scrolls", "l_eval")


def find_tasks(names: Sequence[str]) -> list[LongTask]:
    """Tasks from names such as ``scrolls/qasper``, or ``scrolls`` for all of a group, in order, each once.

    Raises:
        UserError: no such task.
    """
    found: dict[str, LongTask] = {}
    for name in names:
        members = [task for task in TASKS.values() if name in (task.name, task.name.split("/")[0])]
        if not members:
            raise UserError(
                f"No long question task '{name}'. There are {', '.join(GROUPS)}, and in them {list(TASKS)}."
            )
        found |= {task.name: task for task in members}
    return list(found.values())
