"""Tiny checkpoints as ``LongContextModule`` saves them."""

import torch

from lit_long.rope.xpos import register_xpos

VOCAB = 320
NATIVE, CONTEXT = 64, 512
ROPES = {
    "abf": {"rope_type": "default", "rope_theta": 500_000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0, "original_max_position_embeddings": NATIVE},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10_000.0,
        "factor": 8.0,
        "original_max_position_embeddings": NATIVE,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
}

XPOS = {"rope_type": "xpos", "rope_theta": 500_000.0, "xpos_scale_base": 100.0}
"""At CONTEXT tokens the fastest frequency has lost 9 bits; apart from ROPES, which plain transformers reads."""


def llama(method="abf", *, tied=False, **changes):
    """A two-layer Llama whose weights are large enough that positions and every tensor matter to the logits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if method == "xpos_abf":
        register_xpos()
    settings = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.3,
        "tie_word_embeddings": tied,
        "rope_parameters": dict(XPOS if method == "xpos_abf" else ROPES[method]),
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def record(model, method="abf", **changes):
    """The ``lit_long`` entry of a checkpoint."""
    return {
        "format": 1,
        "version": "0.1.0",
        "config": model.config.to_dict(),
        "rope": {
            "method": method,
            "options": {},
            "native_length": NATIVE,
            "native_base": 10_000.0,
            "context_length": CONTEXT,
        },
        "base_model": "example/tiny-llama",
        "base_revision": None,
        "tokenizer": None,
        "lora": None,
        "training": {
            "steps": 7,
            "tokens": 7 * 4096,
            "sequence_length": CONTEXT,
            "learning_rate": 2e-5,
            "betas": [0.9, 0.95],
            "last_loss": 2.5,
            "data": {"name": "books", "tokens": 123_456, "license": "public domain"},
        },
        "versions": {"lit-long": "0.1.0", "torch": "2.13.0"},
    } | changes


def save(path, state, entry):
    """Write a checkpoint file; ``state`` has plain model names."""
    tensors = {f"model.{name}": value for name, value in state.items()}
    optimizer = [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}]
    torch.save({"state_dict": tensors, "lit_long": entry, "global_step": 7, "optimizer_states": optimizer}, path)
    return path
