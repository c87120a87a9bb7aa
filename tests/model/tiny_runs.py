"""One step of a tiny Llama on real text, and what can be counted in it: operators, saved bytes, bytes alive."""

import weakref
from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import AutoConfig, AutoModelForCausalLM

from lit_long.attention import use_packed_attention
from lit_long.model.forward import next_token_loss
from lit_long.model.levers import apply_levers
from lit_long.model.lora import LoraSettings, add_lora

CPU_ATTENTION = "aten::_scaled_dot_product_flash_attention_for_cpu"
LORA = LoraSettings(r=4, target_modules=("q_proj", "v_proj", "gate_proj", "down_proj"))


def tiny_model(config, *, levers=None, lora=None, dtype=torch.float32, **changes):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config | changes), dtype=dtype)
    model = use_packed_attention(model).train()
    if lora is not None:
        model = add_lora(model, lora)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start, and so would be most gradients
                torch.nn.init.normal_(parameter, std=0.05)
    if levers is not None:
        apply_levers(model, levers)
    return model


def text_batch(corpus_dir, *, rows=1, length=96, cuts=(40,), start=0):
    """Rows of real text, each of documents that end at ``cuts``."""
    from lit_long.data import TokenCorpus

    tokens = torch.tensor(TokenCorpus(corpus_dir).document(0)[start : start + rows * length + 1]).long()
    position = torch.cat([torch.arange(b - a) for a, b in zip((0, *cuts), (*cuts, length), strict=True)])
    return {
        "input_ids": tokens[:-1].view(rows, length),
        "target_ids": tokens[1:].view(rows, length),
        "position_ids": position.expand(rows, -1).contiguous(),
    }


def step(model, batch, *, amp=False):
    """Loss and gradients by name."""
    for parameter in model.parameters():
        parameter.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=amp, cache_enabled=False):
        loss = next_token_loss(model, batch, chunk_size=32).loss
    loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return loss.detach(), grads


def worst(found, expected):
    """Largest relative difference (in norm) of the gradients of two runs."""
    assert found.keys() == expected.keys()
    return max(float((found[n] - expected[n]).norm() / expected[n].norm().clamp(min=1e-12)) for n in expected)


class Operators(TorchDispatchMode):
    """Counts operators by name, and the FLOPs of matrix products."""

    def __init__(self):
        super().__init__()
        self.count, self.flops = Counter(), 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count[function._schema.name] += 1
        if function is torch.ops.aten.mm.default:
            self.flops += 2 * args[0].numel() * args[1].shape[1]
        return function(*args, **(kwargs or {}))


class Alive(TorchDispatchMode):
    """Bytes of all tensors that operators made and that are still there; and the most there ever were."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, torch.Tensor):
                self._note(value.untyped_storage())
        return result

    def _note(self, storage):
        if storage not in self._seen:
            size = storage.nbytes()
            self._seen[storage] = size
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, size)

    def _gone(self, size):
        self.now -= size


def saved_bytes(run, model):
    """Bytes that autograd saves in ``run()``, weights not counted; each memory once."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    total = sum(size for size, _ in kept.values())
    del result
    return total
