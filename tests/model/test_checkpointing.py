"""Activation checkpointing: how often attention really runs, what is kept, and that nothing changes."""

import copy
from importlib import import_module

import pytest
import torch
from tiny_runs import CPU_ATTENTION, LORA, Operators, saved_bytes, step, text_batch, tiny_model, worst

from lit_long.errors import UserError
from lit_long.model.checkpointing import Checkpointed, is_attention_forward
from lit_long.model.forward import hidden_states
from lit_long.model.layers import Forward, decoder_layers
from lit_long.model.levers import NO_LEVERS, Levers, apply_levers, recomputed

LAYERS = 4


def levers(checkpointing, **options):
    return Levers(**{"checkpointing": checkpointing, "offload": False, "tile_size": 0} | options)


@pytest.fixture
def batch(corpus_dir):
    return text_batch(corpus_dir, length=96, cuts=(20, 61))  # three documents


@pytest.mark.parametrize(
    ("setting", "attention_runs", "layer_runs"),
    [
        (NO_LEVERS, 1, 1),
        (levers("full"), 2, 2),
        (levers("selective"), 1, 2),
        (levers("full", checkpoint_every=2), 1.5, 1.5),
        (levers("selective", checkpoint_every=3), 1, 1.5),
        (levers("selective", offload=True), 1, 2),
        (levers("selective", tile_size=16), 1, 2),
    ],
    ids=str,
)
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_attention_runs_once_a_layer_with_selective_and_twice_with_full(
    tiny_config, batch, setting, attention_runs, layer_runs, lora
):
    model = tiny_model(tiny_config, levers=setting, num_hidden_layers=LAYERS, lora=lora)
    with Operators() as operators:
        step(model, batch)
    assert operators.count[CPU_ATTENTION] == attention_runs * LAYERS * 3
    assert operators.count[CPU_ATTENTION + "_backward"] == LAYERS * 3
    if lora is None and not setting.tile_size:  # q, k and v are made again in either; silu is in no other place
        assert operators.count["aten::silu"] == layer_runs * LAYERS


@pytest.mark.parametrize(
    "setting",
    [
        NO_LEVERS,
        levers("full"),
        levers("selective", checkpoint_every=3),
        levers("none", tile_size=16),
        levers("full", checkpoint_every=2, tile_size=16),
    ],
    ids=str,
)
def test_what_is_said_to_be_computed_again_is_what_is(tiny_config, batch, setting):
    """FLOPs of matrix products; the second run of a layer spares its last matrix."""

    def flops(setting):
        model = tiny_model(tiny_config, levers=setting, num_hidden_layers=LAYERS)
        with Operators() as counter:
            step(model, batch)
        return counter.flops, model

    (plain, _), (found, model) = flops(NO_LEVERS), flops(setting)
    layers = decoder_layers(model)
    weights = sum(p.numel() for layer in layers for p in layer.parameters() if p.ndim > 1)
    again = (found - plain) / (2 * 96 * weights)
    spared = sum(
        layer.mlp.down_proj.weight.numel()
        for index, layer in enumerate(layers)
        if setting.checkpointing != "none" and index % setting.checkpoint_every == 0 and not setting.tile_size
    )
    share = recomputed(model, setting)
    assert again == pytest.approx(share["layers"] - spared / weights, rel=1e-9)
    full = setting.checkpointing == "full"
    assert share["attention"] == (1 / setting.checkpoint_every if full else 0)


def test_what_is_kept(tiny_config, batch):
    """A layer's input; with selective its attention's outputs, which autograd does not see until it is asked."""

    def kept(setting):
        model = tiny_model(tiny_config, num_hidden_layers=LAYERS)
        less = tiny_model(tiny_config, num_hidden_layers=2)
        for each in (model, less):
            apply_levers(each, setting)
        return (saved_bytes(lambda: hidden_states(model, batch), model)
                - saved_bytes(lambda: hidden_states(less, batch), less)) / 2  # fmt: skip

    assert kept(levers("full")) == 96 * 64 * 4
    assert kept(NO_LEVERS) > 10 * kept(levers("full"))


def test_gradients_are_bit_equal_in_training_and_evaluation_mode(tiny_config, batch):
    for mode in (True, False):  # from_pretrained leaves eval mode, in which transformers' own checkpointing is off
        expected = step(tiny_model(tiny_config).train(mode), batch)
        for setting in (levers("full"), levers("selective"), levers("full", checkpoint_every=2)):
            loss, grads = step(tiny_model(tiny_config, levers=setting).train(mode), batch)
            assert torch.equal(loss, expected[0])
            assert worst(grads, expected[1]) == 0


def test_dropout_of_adapters_is_the_same_in_the_second_run(tiny_config, batch):
    from dataclasses import replace

    results = []
    for setting in (NO_LEVERS, levers("selective")):
        model = tiny_model(tiny_config, levers=setting, lora=replace(LORA, dropout=0.3))
        torch.manual_seed(5)
        results.append(step(model, batch))
    assert torch.equal(results[0][0], results[1][0])
    assert worst(results[1][1], results[0][1]) == 0


def test_a_copy_of_a_model_is_a_model_of_its_own(tiny_config, batch):
    model = tiny_model(tiny_config, levers=levers("selective", offload=True, tile_size=16))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    expected = step(tiny_model(tiny_config), batch)
    loss, grads = step(model, batch)
    assert torch.equal(loss, expected[0])
    assert worst(grads, expected[1]) < 1e-6
    zero, _ = step(twin, batch)
    assert not torch.equal(zero, loss)
    first, second = (decoder_layers(each)[0].forward for each in (model, twin))
    assert first.module is decoder_layers(model)[0]
    assert second.module is decoder_layers(twin)[0]
    assert first.store is not second.store
    assert second.store is decoder_layers(twin)[1].forward.store
    assert list(model.state_dict()) == list(tiny_model(tiny_config).state_dict())


def test_without_gradients_it_is_the_plain_layer(tiny_config, batch):
    model = tiny_model(tiny_config, levers=levers("selective", offload=True))
    with torch.no_grad():
        assert torch.equal(hidden_states(model, batch), hidden_states(tiny_model(tiny_config), batch))
        generated = model.generate(batch["input_ids"][:, :5], max_new_tokens=3, do_sample=False, use_cache=False)
    assert generated.shape == (1, 8)


def test_a_cache_is_refused(tiny_config, batch):
    model = tiny_model(tiny_config, levers=levers("full"))
    with pytest.raises(UserError, match=r"a key/value cache exclude each other; pass use_cache=False"):
        model(batch["input_ids"], use_cache=True)


def test_attention_that_is_not_an_operator_is_said_to_run_twice(tiny_config, batch):
    model = tiny_model(tiny_config, levers=levers("selective"))
    model.set_attn_implementation("eager")
    with pytest.warns(UserWarning, match="no known attention operator ran in LlamaDecoderLayer"):
        model(batch["input_ids"], use_cache=False).logits.mean().backward()


def test_which_operators_are_attention():
    import_module("torch.nn.attention.varlen")  # registers its operators

    forward = [
        torch.ops.aten._scaled_dot_product_flash_attention.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_efficient_attention.default,
        torch.ops.aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.torch_attn._varlen_attn.default,
    ]
    assert all(is_attention_forward(op) for op in forward)
    others = [
        torch.ops.aten._scaled_dot_product_flash_attention_backward.default,
        torch.ops.torch_attn._varlen_attn_backward.default,
        torch.ops.torch_attn._varlen_attn_out.default,  # writes into an argument
        torch.ops.aten.mm.default,
    ]
    assert not any(is_attention_forward(op) for op in others)


def test_flash_attn_operators_are_known_by_their_library():
    library = torch.library.Library("flash_attn", "FRAGMENT")
    for name in ("_lit_long_test_forward", "_lit_long_test_backward"):
        library.define(f"{name}(Tensor q) -> Tensor")
    assert is_attention_forward(torch.ops.flash_attn._lit_long_test_forward.default)
    assert not is_attention_forward(torch.ops.flash_attn._lit_long_test_backward.default)


def test_refusals(tiny_config):
    model = tiny_model(tiny_config, levers=levers("full"))
    with pytest.raises(UserError, match=r"the forward of LlamaDecoderLayer is already replaced \(by "):
        apply_levers(model, levers("full"))
    with pytest.raises(UserError, match=r"levers\.checkpointing is auto; set it, or let"):
        apply_levers(tiny_model(tiny_config), Levers())
    model = tiny_model(tiny_config)
    del model.get_decoder().layers
    with pytest.raises(UserError, match=r"llama: LlamaModel has no list of decoder layers named 'layers'"):
        apply_levers(model, levers("full"))


def test_every_second_layer(tiny_config):
    model = tiny_model(tiny_config, levers=levers("full", checkpoint_every=2), num_hidden_layers=3)
    assert [type(vars(layer).get("forward")) for layer in decoder_layers(model)] == [
        Checkpointed, type(None), Checkpointed
    ]  # fmt: skip
    assert issubclass(Checkpointed, Forward)
