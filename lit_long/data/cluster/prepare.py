"""``prepare`` as datatrove stages: clean (if asked for), tokenise in any number of tasks, finish."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.pipeline.base import PipelineStep

from lit_long.data.cluster.stage import Stage
from lit_long.data.prepare import PrepareConfig, finish, tokenize_items

Documents = Iterator[Any]


class TokenizeItems(PipelineStep):
    """Tokenises the items of one task into the unfinished corpus; items that are there already are not done again."""

    type, name = "lit-long", "tokenise"

    def __init__(self, config: PrepareConfig) -> None:
        super().__init__()
        self.config = config

    def run(self, data: Documents | None = None, rank: int = 0, world_size: int = 1) -> None:
        """The items whose number leaves ``rank`` when divided by ``world_size``."""
        tokenize_items(self.config, rank=rank, world_size=world_size)


class FinishCorpus(PipelineStep):
    """Checks that every item is there and makes the corpus of them."""

    type, name = "lit-long", "finish the corpus"

    def __init__(self, config: PrepareConfig) -> None:
        super().__init__()
        self.config = config

    def run(self, data: Documents | None = None, rank: int = 0, world_size: int = 1) -> None:
        """One task alone."""
        finish(self.config)


def prepare_stages(config: PrepareConfig, *, tasks: int) -> list[Stage]:
    """All stages of a corpus; with ``config.clean`` the sources are cut into items here, in this process.

    Raises:
        UserError: packages, sources or settings that cannot work.
    """
    stages: list[Stage] = []
    if config.clean is not None:
        from lit_long.data.cleaning.clean import arguments_of, begin
        from lit_long.data.cleaning.stages import cleaning_stages

        work = begin(**arguments_of(config))
        if work.report is None:
            stages += cleaning_stages(work, work.plan())
    return [
        *stages,
        Stage("tokenise", [TokenizeItems(config)], tasks, repeatable=True),
        Stage("finish", [FinishCorpus(config)], 1, repeatable=True),
    ]


def logs_of(config: PrepareConfig) -> Path:
    """The folder of datatrove's logs, beside the corpus."""
    return Path(f"{config.output}.logs")
