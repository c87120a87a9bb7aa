"""The command from checkpoint to folder; the three tests that start a fresh process are marked by their names."""

import getpass
import json
import os
import socket
import stat
import subprocess
import sys
from argparse import ArgumentParser

import pytest
import torch
from hub_checkpoints import CONTEXT, llama, record, save
from huggingface_hub import ModelCard

from lit_long.errors import UserError
from lit_long_hub import proof_reader
from lit_long_hub.cli.export import COMMAND
from lit_long_hub.export import export_checkpoint


def command(*arguments):
    parser = ArgumentParser()
    COMMAND.add_arguments(parser)
    return COMMAND.run(parser.parse_args([str(argument) for argument in arguments]))


def texts(folder):
    """All text of a release that is ours to write."""
    return "\n".join(path.read_text() for path in sorted(folder.iterdir()) if path.suffix in (".md", ".json"))


def test_command_proves_a_sharded_export_in_a_fresh_process(make_checkpoint, tmp_path, capsys):
    model = llama("abf")
    training = record(model)["training"] | {"data": {"name": "books", "source": str(tmp_path / "corpus")}}
    checkpoint = make_checkpoint(model, base_model=str(tmp_path / "base"), training=training)
    report = tmp_path / "report.md"
    report.write_text(f"## Loss\n\n| model | loss |\n|---|---|\n| {tmp_path}/abf | 2.5 |\n")
    out = tmp_path / "out"
    old_mask = os.umask(0o022)
    try:
        code = command(
            checkpoint, "--output", out, "--max-shard-size", "30KB", "--license", "mit", "--report", report, "--json"
        )
    finally:
        os.umask(old_mask)
    assert code == 0
    result = json.loads(capsys.readouterr().out)
    assert sorted(result["files"]) == sorted(path.name for path in out.iterdir())
    assert sum(name.endswith(".safetensors") for name in result["files"]) > 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o644}

    verification = json.loads((out / "verification.json").read_text())
    assert verification == result["verification"]
    assert verification["passed"] is True
    # What the fresh process measured is what the model in this process computes.
    check = verification["check_it_yourself"]
    with torch.no_grad():
        logits = model(torch.tensor([check["input_ids"]])).logits[0, -1]
    assert logits.topk(5).indices.tolist() == check["top_tokens_after_last"]
    assert logits.topk(5).values.tolist() == pytest.approx(check["their_logits"], abs=2e-5)

    config = json.loads((out / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 500_000.0
    assert config["rope_scaling"] is None
    assert config["max_position_embeddings"] == CONTEXT
    assert config["dtype"] == config["torch_dtype"] == "float32"
    assert config["use_cache"] is True
    generation = json.loads((out / "generation_config.json").read_text())
    assert {key: value for key, value in generation.items() if key != "transformers_version"} == {
        "bos_token_id": 0,
        "eos_token_id": 1,
    }

    card = ModelCard.load(out / "README.md")
    assert card.data.license == "mit"
    assert card.data.base_model is None  # a folder is no Hub id
    assert "| 512 | 0 to 511 |" in card.text
    assert "| abf | 2.5 |" in card.text
    published = texts(out)
    for private in (str(tmp_path), os.path.expanduser("~/"), f"/{getpass.getuser()}/", f"//{socket.gethostname()}"):
        assert private not in published, private


def test_a_mismatch_found_in_a_fresh_process_withdraws_the_folder(make_checkpoint, tmp_path, monkeypatch, capsys):
    from lit_long_hub import export

    def stale(folder, content, write=export.write_config):
        return write(folder, {**content, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}})

    monkeypatch.setattr(export, "write_config", stale)
    out = tmp_path / "out"
    checkpoint = make_checkpoint(llama("abf"))
    assert command(checkpoint, "--output", out, "--max-shard-size", "30KB") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "not the model that was trained" in captured.err
    assert json.loads((out / "verification.json").read_text())["passed"] is False
    names = {path.name for path in out.iterdir()}
    assert not names & {"README.md", "config.json", "model.safetensors.index.json"}

    monkeypatch.undo()  # the same folder can be exported to again
    export_checkpoint(checkpoint, out, verify=False)
    names = {path.name for path in out.iterdir()}
    assert {"README.md", "config.json", "model.safetensors"} <= names
    assert not names & {"config.json.refused", "verification.json", "model-00001-of-00006.safetensors"}


def test_lora_is_merged_and_proved_against_peft_in_a_fresh_process(make_checkpoint, tokenizer_folder, tmp_path):
    peft = pytest.importorskip("peft")
    base = llama("yarn", tied=True)
    base_folder = tmp_path / "base"
    base.save_pretrained(base_folder)
    (base_folder / "README.md").write_text("---\nlicense: llama3.1\n---\n")
    (base_folder / "NOTICE").write_text("a notice")
    wrapped = peft.get_peft_model(base, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "o_proj"]))
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(parameter.requires_grad or "norm" in name)
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    state = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
    lora = json.loads(json.dumps(wrapped.peft_config["default"].to_dict(), default=sorted))
    lora["base_model_name_or_path"] = str(base_folder)
    checkpoint = make_checkpoint(base, "yarn", state=state, lora=lora, base_model=str(base_folder))

    result = export_checkpoint(checkpoint, tmp_path / "out", dtype="bfloat16")
    assert result.verification["passed"]
    assert {"NOTICE", "model.safetensors"} <= set(result.files)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "llama3.1"
    assert "lora" in card.data.tags
    assert str(tmp_path) not in texts(tmp_path / "out")

    from safetensors.torch import load_file

    expected = wrapped.merge_and_unload().state_dict()
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert got.keys() == expected.keys() - {"lm_head.weight"}
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name].bfloat16(), rtol=2**-7, atol=0)


def test_output_folders_that_are_refused(make_checkpoint, tokenizer_folder, tmp_path):
    checkpoint = make_checkpoint(llama())
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    (other / "verification.json").write_text('{"writer": "somebody else"}')
    with pytest.raises(UserError, match="not empty and not an earlier export"):
        export_checkpoint(checkpoint, other, verify=False)
    with pytest.raises(UserError, match="is a file"):
        export_checkpoint(checkpoint, other / "thesis.tex", verify=False)
    with pytest.raises(UserError, match="reads from"):
        export_checkpoint(checkpoint, tokenizer_folder, verify=False)
    with pytest.raises(UserError, match="reads from"):
        export_checkpoint(checkpoint, tmp_path, verify=False)
    assert sorted(path.name for path in other.iterdir()) == ["thesis.tex", "verification.json"]


def test_an_earlier_export_is_replaced_and_other_files_in_it_stay(make_checkpoint, tmp_path):
    out = tmp_path / "out"
    export_checkpoint(make_checkpoint(llama("abf")), out, max_shard_size="30KB", verify=False)
    (out / "LICENSE").write_text("mine")
    export_checkpoint(make_checkpoint(llama("linear"), "linear"), out, verify=False)
    names = {path.name for path in out.iterdir()}
    assert "LICENSE" in names
    assert not [name for name in names if name.startswith("model-") or name.endswith(".index.json")]
    assert json.loads((out / "config.json").read_text())["rope_scaling"] == {"rope_type": "linear", "factor": 8.0}
    assert proof_reader.read_folder(out, [], [])["context_length"] == CONTEXT


def test_disk_errors_are_one_message_and_leave_nothing_loadable(make_checkpoint, tmp_path, monkeypatch):
    from lit_long_hub import companions

    def full(*arguments):
        raise OSError(28, "No space left on device")

    checkpoint = make_checkpoint(llama())
    monkeypatch.setattr(companions, "write_text", full)
    with pytest.raises(UserError, match=r"out failed: No space left on device\. Free space"):
        export_checkpoint(checkpoint, tmp_path / "out", verify=False)
    assert not (tmp_path / "out" / "config.json").exists()


def test_checkpoints_that_cannot_be_read(tmp_path):
    def refused(path, said):
        with pytest.raises(UserError, match=said):
            export_checkpoint(path, tmp_path / "out")

    refused(tmp_path / "gone.ckpt", "No checkpoint at")
    (tmp_path / "step=5.ckpt").mkdir()
    refused(tmp_path / "step=5.ckpt", "no complete sharded checkpoint")
    text = tmp_path / "text.ckpt"
    text.write_text("hello, this is no checkpoint")
    refused(text, "no checkpoint|cannot be read as a checkpoint")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    refused(tmp_path / "empty.ckpt", "cannot be read as a checkpoint")
    model = llama()
    whole = save(tmp_path / "whole.ckpt", model.state_dict(), record(model, tokenizer="x/y"))
    cut = tmp_path / "cut.ckpt"
    cut.write_bytes(whole.read_bytes()[:-5000])
    refused(cut, "cannot be read as a checkpoint")
    plain = tmp_path / "plain.ckpt"
    torch.save({"state_dict": {}, "global_step": 1}, plain)
    refused(plain, "not a lit-long checkpoint: it lacks the entry 'lit_long'")
    future = save(tmp_path / "future.ckpt", model.state_dict(), record(model) | {"format": 2, "version": "9.9"})
    refused(future, r"format 2.*reads format 1.*9\.9")
    lacking = save(tmp_path / "lacking.ckpt", model.state_dict(), record(model) | {"rope": {"method": "abf"}})
    refused(lacking, r"rope\.native_length, rope\.context_length missing")
    nameless = save(tmp_path / "nameless.ckpt", model.state_dict(), record(model))
    refused(nameless, "--tokenizer")
    assert not (tmp_path / "out").exists()


def test_lora_without_its_base_model_says_what_to_give(make_checkpoint, tmp_path):
    lora = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    state = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight": torch.zeros(4, 32)}
    gone = str(tmp_path / "gone")
    for base, said in (
        ("nobody/nothing-here", "neither a folder here nor a Hub"),
        (gone, "neither"),
        (None, "--base-model"),
    ):
        checkpoint = make_checkpoint(llama(), state=state, lora=lora, base_model=base)
        with pytest.raises(UserError, match=said):
            export_checkpoint(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_help_imports_nothing_heavy():
    program = (
        "import sys, lit_long_hub.cli.export as e; from argparse import ArgumentParser; p = ArgumentParser(); "
        "e.COMMAND.add_arguments(p); p.format_help(); "
        "print(sorted({'torch', 'transformers', 'rich', 'yaml', 'huggingface_hub'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
