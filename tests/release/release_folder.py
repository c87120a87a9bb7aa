"""Makes a small proved release, and changes it the way a second training would."""

import copy
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "hub"))

from hub_checkpoints import llama, record, save


def export(folder, tokenizer, *, seed=0, method="abf", max_shard_size="20KB", **options):
    """A proved release of a tiny Llama in several shards."""
    import torch

    from lit_long_hub import export_checkpoint

    model = llama(method)
    if seed:
        torch.manual_seed(seed)
        with torch.no_grad():
            model.model.embed_tokens.weight.normal_(0, 0.3)
    entry = copy.deepcopy(record(model, method, tokenizer=str(tokenizer)))
    path = save(folder.parent / f"{folder.name}.ckpt", model.state_dict(), entry)
    export_checkpoint(path, folder, max_shard_size=max_shard_size, license="apache-2.0", **options)
    return folder


def contents(folder):
    """Path within a folder to bytes, hidden files left out."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def remote_contents(hub, repo_id, revision="main", kind="models"):
    """The same of a repository of the test Hub."""
    repo = hub.store.repos[kind, repo_id]
    tree = repo.resolve(revision).tree
    return {path: hub.store.bytes_of(entry) for path, entry in sorted(tree.items()) if path != ".gitattributes"}


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    content |= changes
    path.write_text(json.dumps(content))
