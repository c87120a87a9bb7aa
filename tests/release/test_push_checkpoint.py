"""A checkpoint converted while it is published: one weight file on disk, the bytes of export, all or nothing."""

import copy
import errno
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from release_folder import contents, remote_contents

from lit_long.errors import UserError
from lit_long_hub import ExportMismatchError, ExportOptions, export_checkpoint, push_checkpoint, push_release

sys.path.insert(0, str(Path(__file__).parents[1] / "hub"))

from hub_checkpoints import llama, record, save

REPO = "acme/tiny"
SHARDS = "20KB"
OPTIONS = ExportOptions(max_shard_size=SHARDS, license="apache-2.0")


def push(path, hub, options=OPTIONS, **more):
    return push_checkpoint(path, REPO, options, endpoint=hub.url, token="hf_writer", **more)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch, request):
    """The structure is read without a new process, which takes seconds, but where that is what is tested."""
    from lit_long_hub import proof_reader, weights_proof

    def read(folder, prompts, texts, *, custom_code):
        try:
            return proof_reader.read_structure(folder, texts, custom_code=custom_code)
        except ValueError as error:
            raise weights_proof.DoesNotLoadError(str(error)) from error

    if "fresh_process" not in request.fixturenames:
        monkeypatch.setattr(weights_proof, "run_reader", read)


@pytest.fixture
def fresh_process():
    """Asks for the new process."""


@pytest.fixture
def make(tmp_path, small_tokenizer):
    """Make a checkpoint: ``make(model, method, sharded=..., state=..., ...)`` -> its path."""

    def act(model, method="abf", *, name="run.ckpt", sharded=False, state=None, **changes):
        entry = copy.deepcopy(record(model, method, tokenizer=str(small_tokenizer), **changes))
        path, state = tmp_path / name, state or model.state_dict()
        if not sharded:
            return save(path, {key: value.clone() for key, value in state.items()}, entry)
        import torch.distributed.checkpoint as dcp

        dcp.save(
            {f"state_dict.model.{key}": value.clone() for key, value in state.items()}, checkpoint_id=path, no_dist=True
        )
        torch.save({"lit_long": entry, "global_step": 7}, path / "meta.pt")
        return path

    return act


def weights(files):
    return {name: content for name, content in files.items() if name.startswith("model")}


@pytest.mark.parametrize(
    ("method", "sharded", "dtype", "tied"),
    [("yarn", True, "bfloat16", True), ("xpos_abf", False, None, False)],
)
@pytest.mark.usefixtures("fresh_process")
def test_the_bytes_are_those_of_export(hub, make, tmp_path, method, sharded, dtype, tied):
    path = make(llama(method, tied=tied), method, sharded=sharded)
    done = push(path, hub, ExportOptions(dtype=dtype, max_shard_size=SHARDS, license="apache-2.0"), tag="v1")
    remote = remote_contents(hub, REPO, "v1")
    assert done.private
    assert not path.with_name("run.ckpt.push").exists()
    folder = export_checkpoint(path, tmp_path / "out", dtype=dtype, max_shard_size=SHARDS, license="apache-2.0").folder
    exported = contents(folder)
    assert len(weights(exported)) > 3
    assert exported.keys() == remote.keys()
    assert {name for name in exported if exported[name] != remote[name]} == {"README.md", "verification.json"}
    proof = json.loads(remote["verification.json"])
    assert proof["kind"] == "weights"
    assert proof["passed"]
    assert proof["prompts"] == []
    assert proof["weights"]["bytes"] == sum(
        tensor.nbytes for name, content in remote.items() if name.endswith(".safetensors") for tensor in load(content)
    )
    assert proof["files"].keys() == json.loads(exported["verification.json"])["files"].keys()
    assert b"No logits were compared" in remote["README.md"]
    # Who exports elsewhere has the full proof, and sends that alone.
    again = push_release(folder, REPO, endpoint=hub.url, token="hf_writer")
    assert set(again.uploaded) == {"README.md", "verification.json"}
    assert remote_contents(hub, REPO) == exported


def load(content):
    from safetensors.torch import load

    return load(content).values()


def test_what_is_pulled_is_a_release_and_says_how_it_was_proved(hub, make, tmp_path):
    from transformers import AutoModelForCausalLM

    from lit_long_hub import pull_release, validate_release
    from lit_long_hub.context_facts import context_facts, facts_text

    model = llama()
    push(make(model), hub)
    folder = pull_release(REPO, tmp_path / "here", endpoint=hub.url, token="hf_writer").folder
    assert validate_release(folder).proof == "weights"
    assert "no logits" in facts_text(folder, context_facts(folder))
    ids = torch.arange(40)[None]
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
    # Published again from there, by somebody who trusts it: nothing is sent.
    assert not push_release(folder, REPO, endpoint=hub.url, token="hf_writer").uploaded


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_is_merged_on_the_way_as_peft_merges_it(hub, make, tmp_path, tied):
    import peft

    base = llama(tied=tied)
    base.save_pretrained(tmp_path / "base")
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    wrapped = peft.get_peft_model(base, peft.LoraConfig(**settings))
    torch.manual_seed(1)
    state = {}
    for name, parameter in wrapped.named_parameters():
        if parameter.requires_grad or "norm" in name:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
            state[name] = parameter.detach().clone()
    lora = json.loads(json.dumps(wrapped.peft_config["default"].to_dict(), default=sorted))
    path = make(base, state=state, lora=lora, base_model=str(tmp_path / "base"))
    push(path, hub)
    remote = remote_contents(hub, REPO)
    proof = json.loads(remote["verification.json"])
    assert proof["weights"]["merged"] == 4
    assert proof["weights"]["merge_difference"] < 1e-6
    assert b"peft's own merge" in remote["README.md"]
    assert str(tmp_path).encode() not in b"".join(remote.values())
    folder = export_checkpoint(path, tmp_path / "out", max_shard_size=SHARDS, license="apache-2.0").folder
    assert weights(remote) == weights(contents(folder))


def test_the_disk_holds_one_weight_file_at_a_time(hub, make, tmp_path, monkeypatch):
    path, work = make(llama(), sharded=True), tmp_path / "work"
    seen = []

    def watch(*_):
        files = [file for file in work.rglob("*") if file.is_file()]
        large = [file.stat().st_size for file in files if "safetensors" in file.name and "index" not in file.name]
        seen.append((len(large), sum(large), sum(file.stat().st_size for file in files) - sum(large)))

    push(path, hub, work_dir=work, progress=watch)
    shards = [len(value) for name, value in remote_contents(hub, REPO).items() if name.endswith(".safetensors")]
    assert len(shards) == 6
    assert max(count for count, _, _ in seen) == 1
    assert max(size for _, size, _ in seen) == max(shards)
    assert max(rest for _, _, rest in seen) < 100_000
    assert not work.exists()


def test_an_interrupted_push_sends_nothing_twice(hub, make):
    from hub_server import Fault

    push(make(llama(), name="old.ckpt"), hub)
    new, before = make(llama(initializer_range=0.2)), remote_contents(hub, REPO)
    hub.requests.clear()
    real, sent = hub.fault, []

    def outage(method, path):
        """From the third weight file on, longer than anybody tries."""
        if method == "PUT" and path.startswith("/lfs/"):
            sent.append(path)
            if len(set(sent)) > 2:
                return Fault(method, path, 1, 503, None, {})
        return real(method, path)

    hub.fault = outage
    with pytest.raises(UserError, match="error of its own"):
        push(new, hub)
    assert remote_contents(hub, REPO) == before
    hub.fault = real
    arrived = {path.stem for path in map(Path, sent[:2])}
    push(new, hub)
    after = [Path(path).stem for path in hub.seen("PUT", "/lfs/")]
    assert all(after.count(sha256) == 1 for sha256 in arrived)
    hub.requests.clear()
    assert not push(new, hub).uploaded
    assert not hub.seen("PUT", "/lfs/")
    assert not hub.seen("POST", "/commit/")


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"kind": "drop"}, {"kind": "drop_after"}])
def test_a_fault_in_the_middle_is_outlived(hub, make, fault):
    path = make(llama())
    hub.fail("POST", "/lfs/objects/batch", **fault)
    hub.fail("PUT", "/lfs/", **fault)
    push(path, hub, tag="v1")
    assert len(hub.store.repos["models", REPO].commits) == 2
    assert len(weights(remote_contents(hub, REPO, "v1"))) == 7


def _spoil(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_damaged_weight_file_is_refused(hub, make, monkeypatch):
    from lit_long_hub import streamed_push as module

    path, real = make(llama()), module.write_file

    def damaged(plan, source, folder, name):
        yield from real(plan, source, folder, name)
        if "00003" in name:
            _spoil(folder / name)

    monkeypatch.setattr(module, "write_file", damaged)
    with pytest.raises(ExportMismatchError, match=r"model-00003.*does not hold the checkpoint's numbers"):
        push(path, hub)
    assert not remote_contents(hub, REPO)
    assert len(hub.seen("PUT", "/lfs/")) == 2


def test_a_weight_file_that_changes_after_its_proof_is_refused(hub, make, monkeypatch):
    from lit_long_hub.weights_proof import WeightsProof

    real = WeightsProof.compare

    def compare(self, path):
        real(self, path)
        _spoil(path)

    monkeypatch.setattr(WeightsProof, "compare", compare)
    with pytest.raises(UserError, match="is not the file that was proved"):
        push(make(llama()), hub)
    assert not remote_contents(hub, REPO)
    assert not hub.seen("PUT", "/lfs/")


def test_a_reader_that_errs_is_found_by_the_other_one(hub, make, monkeypatch):
    from lit_long.model.shard_reader import ShardReader

    real = ShardReader.blocks

    def blocks(self, name):
        for block in real(self, name):
            yield block.flip(0) if name.endswith("k_proj.weight") else block

    monkeypatch.setattr(ShardReader, "blocks", blocks)
    with pytest.raises(ExportMismatchError, match=r"k_proj\.weight does not hold the checkpoint's numbers"):
        push(make(llama(), sharded=True), hub)
    assert not remote_contents(hub, REPO)


def _other_base(folder):
    content = json.loads((folder / "config.json").read_text())
    content["rope_parameters"]["rope_theta"] *= 2
    (folder / "config.json").write_text(json.dumps(content))


def _untied(folder):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | {"tie_word_embeddings": False}))


def _other_tokens(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("harm", "message"),
    [(_other_base, "inv_freq differs"), (_untied, "lm_head.weight is in no file"), (_other_tokens, "tokenizer's ids")],
)
def test_another_model_is_refused_before_anything_is_sent(hub, make, monkeypatch, harm, message):
    from lit_long_hub import streamed_push as module

    real = module.write_config

    def write_config(folder, content):
        name = real(folder, content)
        harm(folder)
        return name

    monkeypatch.setattr(module, "write_config", write_config)
    with pytest.raises(ExportMismatchError, match=message):
        push(make(llama(tied=True)), hub)
    assert not hub.requests


def test_a_wrong_merge_is_refused(hub, make, tmp_path, monkeypatch):
    from lit_long_hub.second_reading import MergeMismatchError, SecondReading

    def read(self, name):
        raise MergeMismatchError(f"{name} differs")

    monkeypatch.setattr(SecondReading, "read", read)
    with pytest.raises(ExportMismatchError, match="differs"):
        push(make(llama()), hub)


def test_too_little_space_is_said_first(hub, make, monkeypatch):
    path = make(llama())
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 50_000_000))
    with pytest.raises(UserError, match=r"0\.05 GB free; one weight file needs 0\.00 GB.*--max-shard-size"):
        push(path, hub)
    assert not hub.requests
    assert not path.with_name("run.ckpt.push").exists()


def test_a_disk_that_fills_up_leaves_the_old_release(hub, make, monkeypatch):
    from lit_long_hub import convert

    push(make(llama(tied=True), name="old.ckpt"), hub)
    before, path, real = remote_contents(hub, REPO), make(llama()), convert._write_tensor
    left = [9]

    def write(*arguments):
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments)

    said = r"run\.ckpt\.push failed: No space left.*Nothing was published.*--work-dir"
    with monkeypatch.context() as full:
        full.setattr(convert, "_write_tensor", write)
        with pytest.raises(UserError, match=said):
            push(path, hub)
    assert remote_contents(hub, REPO) == before
    assert not path.with_name("run.ckpt.push").exists()
    push(path, hub)
    assert remote_contents(hub, REPO) != before


def test_work_folders_that_are_not_ours(hub, make, tmp_path):
    path = make(llama())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="not left by an earlier push"):
        push(path, hub, work_dir=tmp_path / "mine")
    with pytest.raises(UserError, match="cannot be its --work-dir"):
        push(path, hub, work_dir=tmp_path)
    with pytest.raises(UserError, match="is a file"):
        push(path, hub, work_dir=tmp_path / "mine/letter.txt")
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


def test_a_tag_elsewhere_is_refused_before_the_conversion(hub, make):
    push(make(llama(tied=True), name="old.ckpt"), hub, tag="v1")
    push(make(llama(), name="new.ckpt"), hub)
    hub.requests.clear()
    with pytest.raises(UserError, match="already has a tag 'v1'"):
        push(make(llama("linear"), "linear"), hub, tag="v1")
    assert not hub.seen("PUT", "/lfs/")


def test_a_hub_that_keeps_small_weight_files_in_git(hub, make, monkeypatch):
    import hub_server

    monkeypatch.setattr(hub_server, "LARGE", ())
    push(make(llama()), hub)
    assert len(weights(remote_contents(hub, REPO))) == 7
