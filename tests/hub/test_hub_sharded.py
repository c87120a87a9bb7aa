"""Sharded checkpoints: the same bytes as from one file, one tensor in memory, no code run, taken up after kill -9."""

import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hub_checkpoints import llama, record

from lit_long.errors import UserError
from lit_long_hub import export_checkpoint


def save_sharded(path, model, *, tokenizer, prefix="state_dict.model."):
    """A folder as Lightning writes it, with an optimizer that nobody should read."""
    state = {f"{prefix}{name}": value.clone() for name, value in model.state_dict().items()}
    state["optimizer_0.state.x"] = torch.zeros(1000)
    dcp.save(state, checkpoint_id=path, no_dist=True)
    entry = record(model, tokenizer=str(tokenizer), base_model=None)
    torch.save({"lit_long": entry, "global_step": 7}, path / "meta.pt")
    return path


@pytest.fixture
def sharded(tmp_path, tokenizer_folder):
    return save_sharded(tmp_path / "sharded.ckpt", llama(), tokenizer=tokenizer_folder)


def weights_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors*"))}


@pytest.mark.parametrize("prefix", ["state_dict.model.", "model.model."])
@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_the_same_bytes_as_from_one_file(tmp_path, make_checkpoint, tokenizer_folder, prefix, dtype):
    model = llama(tied=True)
    path = save_sharded(tmp_path / "s.ckpt", model, tokenizer=tokenizer_folder, prefix=prefix)
    single = export_checkpoint(make_checkpoint(model), tmp_path / "a", max_shard_size="20KB", dtype=dtype)
    several = export_checkpoint(path, tmp_path / "b", max_shard_size="20KB", dtype=dtype)
    assert several.verification["passed"]
    assert weights_of(single.folder) == weights_of(several.folder)


def test_the_optimizer_is_never_read(tmp_path, sharded):
    expected = weights_of(export_checkpoint(sharded, tmp_path / "whole", verify=False).folder)
    places = dcp.FileSystemReader(sharded).read_metadata().storage_data
    [place] = [place for index, place in places.items() if index.fqn.startswith("optimizer_0")]
    with (sharded / place.relative_path).open("r+b") as file:
        file.seek(place.offset)
        file.write(b"\xff" * place.length)
    assert weights_of(export_checkpoint(sharded, tmp_path / "out", verify=False).folder) == expected


class _Evil:
    def __reduce__(self):
        return os.mkdir, (os.environ["EVIL"],)


def test_a_table_of_contents_that_runs_code_is_refused(tmp_path, sharded, monkeypatch):
    from lit_long.model.inference import load_for_inference

    monkeypatch.setenv("EVIL", str(tmp_path / "evil"))
    (sharded / ".metadata").write_bytes(pickle.dumps(_Evil()))
    for use in (lambda: export_checkpoint(sharded, tmp_path / "out"), lambda: load_for_inference(str(sharded))):
        with pytest.raises(UserError, match=r"posix\.mkdir.*do not trust"):
            use()
    assert not (tmp_path / "evil").exists()


def test_a_damaged_table_is_one_message(tmp_path, sharded):
    path = sharded / ".metadata"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="cannot be read"):
        export_checkpoint(sharded, tmp_path / "out")


def test_tied_weights_that_differ_are_refused(tmp_path, tokenizer_folder):
    model = llama(tied=True)
    state = {f"state_dict.model.{name}": value.clone() for name, value in model.state_dict().items()}
    state["state_dict.model.lm_head.weight"] += 1
    path = tmp_path / "s.ckpt"
    dcp.save(state, checkpoint_id=path, no_dist=True)
    torch.save({"lit_long": record(model, tokenizer=str(tokenizer_folder))}, path / "meta.pt")
    with pytest.raises(UserError, match="ties lm_head"):
        export_checkpoint(path, tmp_path / "out")


_MEASURE = """
    import resource, sys, threading, time
    from pathlib import Path
    import torch
    from lit_long_hub.checkpoint import read_checkpoint
    from lit_long_hub.convert import plan_weights, write_weights

    def anonymous():
        return sum(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("RssAnon"))

    source = read_checkpoint(sys.argv[1])
    specs = source.weights.specs()
    plan = plan_weights(specs, {name: name for name in specs}, dtype=torch.bfloat16, max_shard_size="100MB")
    base, peak, done = anonymous(), 0, False

    def watch():
        global peak
        while not done:
            peak = max(peak, anonymous())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    Path(sys.argv[2]).mkdir()
    write_weights(plan, source.weights, Path(sys.argv[2]), progress=lambda *a: None)
    done = True
    thread.join()
    print((peak - base) * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("shapes", "limit"),
    [
        pytest.param([(4096, 1024)] * 40, 16.8e6 + 67.1e6, id="many"),  # 640 MB, of 16.8 MB each
        pytest.param([(40_000, 2048), *[(4096, 1024)] * 8], 327.7e6 + 67.1e6, id="one_large"),
    ],
)
def test_memory_is_a_tensor_and_a_piece_not_the_model(tmp_path, tokenizer_folder, shapes, limit):
    """float32 that one rank stored, converted to bfloat16: the largest tensor once, and a cast piece of it."""
    path, entry = tmp_path / "big.ckpt", record(llama(), tokenizer=str(tokenizer_folder))
    state = {f"state_dict.model.w{i}": torch.ones(shape) for i, shape in enumerate(shapes)}
    dcp.save(state, checkpoint_id=path, no_dist=True)
    torch.save({"lit_long": entry}, path / "meta.pt")
    del state
    command = [sys.executable, "-c", textwrap.dedent(_MEASURE), str(path), str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < limit + 20e6


_SLOWLY = """
    import sys, time
    from lit_long_hub import export_checkpoint
    export_checkpoint(sys.argv[1], sys.argv[2], max_shard_size="20KB", progress=lambda *a: time.sleep(0.15))
"""


def test_a_killed_export_goes_on_where_it_was(tmp_path, sharded):
    whole = export_checkpoint(sharded, tmp_path / "whole", max_shard_size="20KB")
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(_SLOWLY), str(sharded), str(out)])
    end = time.monotonic() + 60
    while len(list(out.glob("model-*.safetensors"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "config.json").exists()
    before = {path.name: path.stat().st_ino for path in out.glob("model-*.safetensors")}
    again = export_checkpoint(sharded, out, max_shard_size="20KB")
    assert set(again.resumed) == set(before)
    assert all((out / name).stat().st_ino == inode for name, inode in before.items())
    assert weights_of(out) == weights_of(whole.folder)
    assert not (out / ".lit-long-export.json").exists()


def test_files_of_another_checkpoint_or_dtype_are_not_taken_over(tmp_path, sharded, tokenizer_folder, monkeypatch):
    import lit_long_hub.export as export

    def cut_off(*args, **kwargs):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_config", cut_off)
        with pytest.raises(KeyboardInterrupt):
            export_checkpoint(sharded, out, max_shard_size="20KB")
    assert list(out.glob("model-*.safetensors"))
    assert not export_checkpoint(sharded, out, max_shard_size="20KB", dtype="bfloat16").resumed
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_config", cut_off)
        with pytest.raises(KeyboardInterrupt):
            export_checkpoint(sharded, out, max_shard_size="20KB")
    other = llama()
    with torch.no_grad():
        other.model.embed_tokens.weight.add_(1)
    path = save_sharded(tmp_path / "other.ckpt", other, tokenizer=tokenizer_folder)
    assert not export_checkpoint(path, out, max_shard_size="20KB").resumed


def test_nothing_is_taken_over_from_an_export_that_proved_wrong(tmp_path, sharded, monkeypatch):
    import lit_long_hub.export as export
    from lit_long_hub.proof import ExportMismatchError

    def wrong(*args, **kwargs):
        raise ExportMismatchError("not the same")

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(export, "prove", wrong)
        with pytest.raises(ExportMismatchError):
            export_checkpoint(sharded, out, max_shard_size="20KB")
    assert list(out.glob("model-*.safetensors"))
    assert not export_checkpoint(sharded, out, max_shard_size="20KB", verify=False).resumed


def test_files_merged_with_another_base_are_not_taken_over(tmp_path, make_checkpoint, monkeypatch):
    peft = pytest.importorskip("peft")
    import lit_long_hub.export as export

    base, folder, out = llama(), tmp_path / "base", tmp_path / "out"
    base.save_pretrained(folder)
    wrapped = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"]))
    state = {name: value.detach() for name, value in wrapped.named_parameters() if value.requires_grad}
    lora = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj"], "peft_type": "LORA"}
    path = make_checkpoint(base, state=state, lora=lora, base_model=str(folder))

    def cut_off(*args, **kwargs):
        raise KeyboardInterrupt

    def attempt():
        with monkeypatch.context() as patch:
            patch.setattr(export, "write_config", cut_off)
            with pytest.raises(KeyboardInterrupt):
                export_checkpoint(path, out, max_shard_size="20KB")

    attempt()
    number = len(list(out.glob("model-*.safetensors")))
    os.utime(folder / "model.safetensors")
    assert not export_checkpoint(path, out, max_shard_size="20KB", verify=False).resumed
    attempt()
    assert len(export_checkpoint(path, out, max_shard_size="20KB", verify=False).resumed) == number
