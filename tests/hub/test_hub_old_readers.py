"""Releases in transformers 4: the same positions, logits and token ids, read by the real thing.

``make old-readers`` installs two of them and runs this with ``LIT_LONG_OLD_READER`` naming the Python of each.
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hub_checkpoints import CONTEXT, NATIVE, ROPES, VOCAB, llama

from lit_long_hub import proof_reader
from lit_long_hub.export import export_checkpoint
from lit_long_hub.proof import FREQUENCY_TOLERANCE, LOGIT_TOLERANCE, TEXTS
from lit_long_hub.reference import make_prompts
from lit_long_hub.tokenizer_files import load_tokenizer

PYTHON = os.environ.get("LIT_LONG_OLD_READER")
PROMPTS = make_prompts(vocab_size=VOCAB, native_length=NATIVE, context_length=CONTEXT)
pytestmark = pytest.mark.skipif(not PYTHON, reason="LIT_LONG_OLD_READER names no Python with transformers 4")


def run_old(scratch, *command):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HF_MODULES_CACHE": str(scratch / "modules")}
    return subprocess.run(
        [os.path.abspath(PYTHON), "-P", *map(str, command)],
        cwd=scratch,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def read_old(folder, scratch):
    """What the old reader measures."""
    request, result = scratch / "request.json", scratch / "result.pt"
    request.write_text(json.dumps({"prompts": PROMPTS, "texts": TEXTS}))
    script = Path(__file__).parent / "old_readers" / "read_release.py"
    done = run_old(scratch, script, proof_reader.__file__, folder, request, result)
    assert done.returncode == 0, done.stderr
    reading = torch.load(result, weights_only=True)
    assert reading["transformers"].startswith("4.")
    return reading


@pytest.fixture(scope="session")
def old_tokenizer(tokenizer_folder, tmp_path_factory):
    """The tokenizer with its merges as text, as tokenizers before 0.20 (transformers 4.45) wrote and read them."""
    folder = tmp_path_factory.mktemp("old") / "tokenizer"
    shutil.copytree(tokenizer_folder, folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    path.write_text(json.dumps(content))
    return folder


def differences(reading, model):
    """Largest differences of logits (of the largest) and of frequencies (relative) from the model in this process."""
    expected = proof_reader.measure(model, PROMPTS)
    logits = max(
        float((reading["logits"][name] - value).abs().max() / value.abs().max()) for name, value in expected.items()
    )
    inv_freq, _, _ = proof_reader.rotary(model)
    return logits, float(((reading["inv_freq"] - inv_freq) / inv_freq).abs().max())


@pytest.mark.parametrize(
    ("method", "dtype"), [*((method, "float32") for method in ROPES), ("abf", "bfloat16"), ("yarn", "bfloat16")]
)
def test_a_release_is_the_trained_model(make_checkpoint, old_tokenizer, tmp_path, method, dtype):
    model = llama(method, tied=dtype == "bfloat16")
    out = tmp_path / "out"
    checkpoint = make_checkpoint(model, method, tokenizer=str(old_tokenizer))
    export_checkpoint(checkpoint, out, dtype=dtype, max_shard_size="30KB", verify=False)
    reading = read_old(out, tmp_path)
    assert not any(reading["loading"].values()), reading["loading"]
    assert reading["dtypes"] == [f"torch.{dtype}"]

    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype)).float()
    logits, inv_freq = differences(reading, model)
    print(f"transformers {reading['transformers']} {method} {dtype}: logits {logits:.1e}, inv_freq {inv_freq:.1e}")
    assert logits <= LOGIT_TOLERANCE
    assert inv_freq <= FREQUENCY_TOLERANCE
    assert reading["inv_freq_dtype"] == "float32"
    assert reading["attention_scaling"] == pytest.approx(proof_reader.rotary(model)[1], rel=1e-6)

    assert reading["context_length"] == CONTEXT
    trained = load_tokenizer(old_tokenizer, "the tokenizer")
    expected = proof_reader.read_tokenizer(trained, TEXTS) | {"model_max_length": CONTEXT}
    assert reading["tokenizer"] == expected
    assert reading["decoded"] == [trained.decode(ids) for ids in expected["ids"]]
    assert reading["chat"] == "hi\n"


def test_a_tokenizer_of_today_loads_with_the_same_ids_or_not_at_all(make_checkpoint, tokenizer_folder, tmp_path):
    """The file is copied as it is: its form is out of the reach of transformers before 4.45, which says so."""
    out = tmp_path / "out"
    export_checkpoint(make_checkpoint(llama()), out, verify=False)
    program = (
        "import json, sys, tokenizers, transformers\n"
        "print(tokenizers.__version__)\n"
        "read = transformers.AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "print(json.dumps([read(text)['input_ids'] for text in json.loads(sys.argv[2])]))"
    )
    done = run_old(tmp_path, "-c", program, out, json.dumps(TEXTS))
    version, *answer = done.stdout.splitlines()
    if tuple(map(int, version.split(".")[:2])) < (0, 20):
        assert (done.returncode, answer) == (1, [])
        assert "data did not match any variant" in done.stderr
    else:
        trained = load_tokenizer(tokenizer_folder, "the tokenizer")
        assert json.loads(answer[0]) == [trained(text)["input_ids"] for text in TEXTS]


def test_without_the_old_keys_the_old_reader_runs_another_model(make_checkpoint, old_tokenizer, tmp_path):
    """What the export guards against, so that the test above is known to see it."""
    model = llama("abf")
    out = tmp_path / "out"
    export_checkpoint(make_checkpoint(model, tokenizer=str(old_tokenizer)), out, verify=False)
    config = json.loads((out / "config.json").read_text())
    del config["rope_theta"], config["rope_scaling"]
    (out / "config.json").write_text(json.dumps(config))
    logits, inv_freq = differences(read_old(out, tmp_path), model)
    assert logits > 100 * LOGIT_TOLERANCE
    assert inv_freq > 1


@pytest.mark.parametrize(("trust", "said"), [("False", "trust_remote_code=True"), ("True", "needs transformers 5")])
def test_an_xpos_release_stops_the_old_reader(make_checkpoint, tmp_path, trust, said):
    out = tmp_path / "out"
    export_checkpoint(make_checkpoint(llama("xpos_abf"), "xpos_abf"), out, verify=False)
    load = f"AutoModelForCausalLM.from_pretrained({str(out)!r}, trust_remote_code={trust})"
    done = run_old(tmp_path, "-c", f"import transformers; transformers.{load}")
    assert done.returncode != 0
    assert said in done.stderr
