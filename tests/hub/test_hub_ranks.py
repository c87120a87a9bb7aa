"""Checkpoints that several ranks wrote: real runs and every kind of split, against PyTorch's own reader."""

import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from lit_long.errors import UserError
from lit_long.model.shard_reader import ShardReader
from lit_long_hub import export_checkpoint
from tests.gloo import run_ranks
from tests.parallel.parallel_runs import fit_on_mesh

pytestmark = pytest.mark.filterwarnings("ignore")


def read_by_pytorch(path):
    found = dcp.FileSystemReader(path).read_metadata().state_dict_metadata.items()
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in found
        if isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(tensors, checkpoint_id=path, no_dist=True)
    return tensors


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_on_two_ranks_is_exported_as_its_weights_in_one_file(corpus_dir, tiny_model_dir, tmp_path, lora):
    fit_on_mesh(corpus_dir, tiny_model_dir, tmp_path, mesh=(2, 1), steps=2, save_every=2, lora=lora)
    sharded = tmp_path / "checkpoints" / "last.ckpt"
    pieces = ShardReader(sharded)
    weights = {
        name.removeprefix("state_dict."): value
        for name, value in read_by_pytorch(sharded).items()
        if name.startswith("state_dict.")
    }
    assert any(len(list(pieces.blocks(f"state_dict.{name}"))) == 2 for name in weights)
    single = tmp_path / "single.ckpt"
    torch.save({**torch.load(sharded / "meta.pt", weights_only=True), "state_dict": weights}, single)
    options = {"max_shard_size": "500KB", "dtype": "bfloat16", "license": "mit"}
    a = export_checkpoint(sharded, tmp_path / "a", **options)
    b = export_checkpoint(single, tmp_path / "b", **options, verify=False)
    assert a.verification["passed"]
    assert len(a.files) == len(b.files) + 1
    files = [name for name in a.files if "safetensors" in name]
    assert len(files) > 2
    for name in (*files, "config.json", "lit_long.json"):
        assert (a.folder / name).read_bytes() == (b.folder / name).read_bytes(), name


def _save_splits(rank, folder):
    line, square = init_device_mesh("cpu", (4,)), init_device_mesh("cpu", (2, 2))
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape, dtype=torch.float32):
        return torch.randn(shape, generator=generator).to(dtype)

    state = {
        "rows": distribute_tensor(tensor(8, 6), line, [Shard(0)]),
        "uneven": distribute_tensor(tensor(7, 3, dtype=torch.bfloat16), line, [Shard(0)]),
        "fewer_rows_than_ranks": distribute_tensor(tensor(2, 5), line, [Shard(0)]),
        "columns": distribute_tensor(tensor(5, 7), line, [Shard(1)]),
        "both": distribute_tensor(tensor(6, 10), square, [Shard(0), Shard(1)]),
        "twice_by_rows": distribute_tensor(tensor(11, 4), square, [Shard(0), Shard(0)]),
        "copies": distribute_tensor(tensor(9, 2), square, [Replicate(), Shard(0)]),
        "line": distribute_tensor(tensor(13), line, [Shard(0)]),
        "plain": tensor(3, 3, 3),
        "scalar": tensor(),
        "empty": tensor(0, 4),
        "count": torch.tensor([1 << 40, -1]),
    }
    dcp.save(state, checkpoint_id=folder / "splits")
    return 0


def test_every_split_is_put_together_as_pytorch_does(tmp_path):
    run_ranks(_save_splits, tmp_path, tmp_path, ranks=4)
    expected, reader = read_by_pytorch(tmp_path / "splits"), ShardReader(tmp_path / "splits")
    reader.check(expected)
    assert expected.keys() == reader.tensors.keys()
    for name, value in expected.items():
        whole, blocks = reader.read(name), list(reader.blocks(name))
        assert whole.dtype == value.dtype, name
        assert torch.equal(whole, value), name
        assert torch.equal(torch.cat([block.reshape(-1) for block in blocks] or [whole.reshape(-1)]), value.reshape(-1))
    assert len(list(reader.blocks("uneven"))) == 4
    assert len(list(reader.blocks("columns"))) == 1

    [file, *_] = sorted((tmp_path / "splits").glob("*.distcp"))
    with file.open("r+b") as stream:
        stream.truncate(file.stat().st_size - 10)
    with pytest.raises(UserError, match=f"{file.name} is cut short"):
        reader.check(expected)
    file.unlink()
    with pytest.raises(UserError, match=f"{file.name} is missing"):
        reader.check(expected)
