"""``OUTPUT.unfinished``: the items that are done, and what they are items of."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lit_long.data.corpus import FORMAT
from lit_long.data.corpus_writer import write_json
from lit_long.data.prepare.facts import Facts, differences, hashed
from lit_long.data.prepare.item_writer import DOCUMENT
from lit_long.errors import UserError


class DeadEndError(UserError):
    """The same inputs and settings will always end like this, so that unfinished work of them is of no use."""


class Store:
    """The folder of unfinished work beside an output.

    ``work.json`` says what the work is, ``items/`` has the items (:mod:`lit_long.data.prepare.item_writer`),
    ``plan.json`` their number once all have been cut, ``corpus/`` the corpus while it is put together.
    """

    def __init__(self, output: Path) -> None:
        self.folder = output.with_name(f"{output.name}.unfinished")
        self.items = self.folder / "items"
        self.corpus = self.folder / "corpus"
        self._plan = self.folder / "plan.json"

    def begin(self, facts: Facts, *, item_bytes: int, tokenizer: str) -> str:
        """Begin the work, or go on with it if it is the same; returns its key.

        Args:
            facts: what the corpus is made of.
            item_bytes: raw text of an item.
            tokenizer: the tokenizer's fingerprint.

        Raises:
            UserError: the folder has other work in it; says what differs.
        """
        work = {
            "settings": facts.settings,
            "inputs": facts.inputs,
            "item_bytes": item_bytes,
            "tokenizer": tokenizer,
            "corpus_format": FORMAT,
            "tokenizers_version": version("tokenizers"),
        }
        file = self.folder / "work.json"
        if not file.is_file():
            self.items.mkdir(parents=True, exist_ok=True)
            write_json(file, work)
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
            found = differences(before, work)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{file}: damaged ({error}); {self._discard}") from error
        if found:
            raise UserError(
                f"{self.folder}: holds unfinished work of other inputs or settings: {'; '.join(found)}. To go on with "
                f"it, use those again; {self._discard}"
            )
        return hashed(work)

    @property
    def _discard(self) -> str:
        return f"to throw it away, add --discard-unfinished (or remove {self.folder})"

    def discard(self) -> None:
        """Throw the work away; the folder and its lock stay."""
        for entry in self.folder.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.suffix != ".lock" and entry.name != "lock":
                entry.unlink()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def clean(self) -> None:
        """Remove what a killed run left behind; nobody else may be at work here."""
        for file in [*self.folder.glob("*.tmp"), *self.items.glob("*.tmp")]:
            file.unlink(missing_ok=True)

    def done(self) -> dict[int, dict[str, Any]]:
        """What is known about each item that is done, by its number, in order."""
        abouts = {}
        for file in sorted(self.items.glob("*.json")):
            try:
                about = json.loads(file.read_text(encoding="utf-8"))
                abouts[int(about["number"])] = about
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}: damaged ({error}); {self._discard}") from error
        return dict(sorted(abouts.items()))

    def documents(self, number: int) -> npt.NDArray[Any]:
        """The :data:`~lit_long.data.prepare.item_writer.DOCUMENT` entries of an item, in order.

        Raises:
            UserError: damaged.
        """
        file = self.items / f"{number:06d}.documents.npy"
        try:
            array: npt.NDArray[Any] = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file}: damaged ({error}); {self._discard}") from error
        assert array.dtype == DOCUMENT
        return array

    def save_plan(self, items: int, raw_bytes: int) -> None:
        """Keep the number of all items, and the bytes of raw text in them."""
        write_json(self._plan, {"items": items, "bytes": raw_bytes})

    def plan(self) -> dict[str, int] | None:
        """What :meth:`save_plan` kept."""
        return json.loads(self._plan.read_text()) if self._plan.is_file() else None
