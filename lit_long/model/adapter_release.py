"""Load a released adapter as the model it makes: its base with the adapter's own positions, merged."""

import json
from pathlib import Path
from typing import Any

from lit_long.errors import UserError
from lit_long.model.build import load_pretrained

_FILE = "adapter_config.json"
_QUIET = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}


def adapter_file(name: str, *, revision: str | None = None) -> str | None:
    """``adapter_config.json`` of a folder or Hub id; None where there is none, or no such place.

    Args:
        name: folder or Hub id.
        revision: Hub revision.
    """
    from transformers.utils.hub import cached_file

    try:
        return cached_file(name, _FILE, revision=revision, **_QUIET)
    except OSError:  # no such place; whoever loads a whole model from it says so
        return None


def load_adapter(name: str, *, revision: str | None = None) -> Any | None:
    """A transformers model in float32 of an adapter's folder or repository; None where there is no adapter.

    transformers and peft alone would load the base with the base's positions; the folder's config.json has those that
    the adapter was trained with.

    Args:
        name: folder or Hub id.
        revision: Hub revision.

    Raises:
        UserError: the adapter has no config.json, or its base cannot be loaded.
    """
    from transformers import AutoConfig
    from transformers.utils.hub import cached_file

    found = adapter_file(name, revision=revision)
    if found is None:
        return None
    if cached_file(name, "config.json", revision=revision, **_QUIET) is None:
        raise UserError(
            f"{name} is an adapter without config.json, so its positions are not known: a run that changed RoPE would "
            f"be measured with the base model's. Put the config that was trained beside it, or give the merged model"
        )
    from peft import PeftModel

    about = json.loads(Path(found).read_text())
    config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    base = load_pretrained(about["base_model_name_or_path"], revision=about.get("revision"), config=config)
    return PeftModel.from_pretrained(base, name, revision=revision).merge_and_unload()
