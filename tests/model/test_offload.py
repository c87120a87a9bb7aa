"""Layer inputs on the host: bits, buffers, and who may ask for them when."""

import gc

import pytest
import torch
from tiny_runs import saved_bytes, step, text_batch, tiny_model, worst

from lit_long.model.forward import hidden_states, next_token_loss
from lit_long.model.layers import decoder_layers
from lit_long.model.levers import Levers
from lit_long.model.offload import HostStore

LAYERS = 4


def levers(offload=True, **options):
    return Levers(**{"checkpointing": "full", "offload": offload, "tile_size": 0} | options)


def store_of(model):
    return decoder_layers(model)[0].forward.store


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("checkpointing", ["full", "selective"])
def test_bit_equal(tiny_config, corpus_dir, checkpointing, amp):
    batch = text_batch(corpus_dir, rows=2, length=96, cuts=(40,))
    expected = step(tiny_model(tiny_config, num_hidden_layers=LAYERS), batch, amp=amp)
    model = tiny_model(tiny_config, num_hidden_layers=LAYERS, levers=levers(checkpointing=checkpointing))
    for _ in range(3):  # buffers of the step before
        loss, grads = step(model, batch, amp=amp)
        assert torch.equal(loss, expected[0])
        assert worst(grads, expected[1]) == 0
    gc.collect()
    assert store_of(model).free_buffers == LAYERS


def test_nothing_of_a_layer_stays_on_the_device(tiny_config, corpus_dir):
    batch = text_batch(corpus_dir)

    def kept(layers):
        model = tiny_model(tiny_config, num_hidden_layers=layers, levers=levers())
        # the hooks of this count see what a layer's own hooks do not take
        return saved_bytes(lambda: hidden_states(model, batch), model)

    assert kept(4) == kept(2)


def test_buffers_follow_the_length_and_a_forward_without_backward_frees_them(tiny_config, corpus_dir):
    model = tiny_model(tiny_config, num_hidden_layers=LAYERS, levers=levers())
    plain = tiny_model(tiny_config, num_hidden_layers=LAYERS)
    for length in (96, 48, 96):
        batch = text_batch(corpus_dir, length=length)
        loss = next_token_loss(model, batch).loss
        assert store_of(model).free_buffers == 0
        del loss  # nobody asks for its gradient
        gc.collect()
        assert store_of(model).free_buffers == LAYERS
        assert worst(step(model, batch)[1], step(plain, batch)[1]) == 0
    gc.collect()
    assert store_of(model).free_buffers == LAYERS


def test_two_micro_batches_at_once_and_a_graph_that_is_used_twice(tiny_config, corpus_dir):
    batches = [text_batch(corpus_dir, start=start) for start in (0, 500)]
    models = [tiny_model(tiny_config, levers=setting) for setting in (levers(), levers(offload=False))]
    for model in models:
        first, second = (next_token_loss(model, batch).loss for batch in batches)
        (first + second).backward(retain_graph=True)
        second.backward()
    for mine, other in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(mine.grad, other.grad)


def test_only_tensors_like_the_layer_input_are_taken():
    store = HostStore()
    hidden = torch.randn(1, 4, 8, requires_grad=True)
    with store.holding(hidden):
        result = (hidden * hidden).sum() + (torch.randn(3, requires_grad=True) ** 2).sum()
    result.backward()
    assert torch.equal(hidden.grad, 2 * hidden)
    del result
    gc.collect()
    assert store.free_buffers == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_a_gpu_it_is_bit_equal_and_leaves_the_device(tiny_config, corpus_dir):
    batch = {key: value.cuda() for key, value in text_batch(corpus_dir, length=4096, cuts=(1000,)).items()}
    results, peaks = [], []
    for offload in (False, True):
        changes = {"num_hidden_layers": 24, "hidden_size": 512, "intermediate_size": 512}
        model = tiny_model(tiny_config, levers=levers(offload), **changes).cuda()
        next_token_loss(model, batch).loss.backward()
        model.zero_grad()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = next_token_loss(model, batch, chunk_size=32).loss
        loss.backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
        results.append((loss, {name: p.grad for name, p in model.named_parameters()}))
    assert torch.equal(results[0][0], results[1][0])
    assert worst(results[1][1], results[0][1]) < 1e-6  # atomic additions in attention's backward
    assert peaks[0] - peaks[1] > 18 * 4096 * 512 * 4
