"""Run by a Python with transformers 4: loads a release as its users do, and measures it as the proof does.

``python read_release.py proof_reader.py FOLDER REQUEST RESULT``; of lit-long only the measuring code is imported.
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(measuring, folder, request, result):
    spec = importlib.util.spec_from_file_location("proof_reader", measuring)
    proof_reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(proof_reader)
    asked = json.loads(Path(request).read_text())
    model, loading = AutoModelForCausalLM.from_pretrained(folder, torch_dtype="auto", output_loading_info=True)
    dtypes = sorted({str(value.dtype) for value in model.parameters()})
    inv_freq, scaling, held_in = proof_reader.rotary(model)
    model = model.float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer = {
        "transformers": transformers.__version__,
        "loading": {key: sorted(map(str, value)) for key, value in loading.items()},
        "logits": proof_reader.measure(model, asked["prompts"]),
        "dtypes": dtypes,
        "inv_freq": inv_freq,
        "inv_freq_dtype": held_in,
        "attention_scaling": scaling,
        "context_length": model.config.max_position_embeddings,
        "tokenizer": proof_reader.read_tokenizer(tokenizer, asked["texts"]),
        "decoded": [tokenizer.decode(tokenizer(text)["input_ids"]) for text in asked["texts"]],
        "chat": tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False),
    }
    torch.save(answer, result)


if __name__ == "__main__":
    main(*sys.argv[1:])
