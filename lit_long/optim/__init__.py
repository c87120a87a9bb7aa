"""AdamW with the Llama 2 settings, and the schedule as a function of the step."""

from lit_long.optim.adamw import adamw, reapply
from lit_long.optim.host import HostAdamW
from lit_long.optim.schedule import lr_factor, schedule
from lit_long.optim.settings import OptimizerSettings

__all__ = ["HostAdamW", "OptimizerSettings", "adamw", "lr_factor", "reapply", "schedule"]
