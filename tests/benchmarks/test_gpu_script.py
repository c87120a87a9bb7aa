"""The GPU benchmark runs at a tiny size on a CPU, goes on where it was, and claims nothing that was not measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks/training/gpu.py"


def run(folder, *arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'hub'}"}
    command = [sys.executable, str(SCRIPT), "--output", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def test_tiny(tmp_path):
    done = run(tmp_path, "--tiny", "--parts", "b", "c")
    assert done.returncode == 0, done.stderr[-2000:]
    data = json.loads((tmp_path / "training_gpu.json").read_text())
    fits = {name: row for name, row in data["parts"]["b"].items() if "error" not in row}
    assert fits.keys() == {"lora 64", "full 64"}, data["parts"]["b"]
    assert fits["full 64"]["tokens_per_second"] > 0
    assert "sdpa" in fits["full 64"]["attention"]
    kernels = data["parts"]["c"]["128 packed"]
    assert kernels["backends"]["sdpa"]["tflops_per_second"] > 0
    assert "its kernels are for CUDA" in kernels["backends"]["varlen"]["refused"]
    assert fits["full 64"]["job"]["states"] == "host"
    again = run(tmp_path, "--tiny", "--parts", "c")  # nothing is measured twice
    assert json.loads((tmp_path / "training_gpu.json").read_text())["parts"] == data["parts"], again.stderr[-2000:]
    text = (tmp_path / "training_gpu.md").read_text()
    assert "Shapes too small to mean anything" in text
    assert "| full | 64 |" in text


def test_measurements_of_another_device_are_not_mixed_in(tmp_path):
    file = tmp_path / "training_gpu.json"
    file.write_text(json.dumps({"device": "NVIDIA H100", "tiny": False, "parts": {"c": {"8192 single": {}}}}))
    done = run(tmp_path, "--tiny", "--parts", "c")
    assert done.returncode == 1
    assert "holds measurements of NVIDIA H100; give another --output" in done.stderr
    assert json.loads(file.read_text())["device"] == "NVIDIA H100"


def test_without_a_gpu_nothing_is_claimed(tmp_path):
    done = run(tmp_path, "--empty")
    assert done.returncode == 0, done.stderr[-2000:]
    text = (tmp_path / "training_gpu.md").read_text()
    assert "Not measured: no GPU was lent" in text
    assert "| lora | | | | |" in text
