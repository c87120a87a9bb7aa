"""Tiles of MLPs and norms: gradients, memory, work, and what is refused."""

import itertools

import pytest
import torch
from tiny_runs import LORA, Alive, Operators, step, text_batch, tiny_model, worst
from torch import nn

from lit_long.errors import UserError
from lit_long.model.layers import decoder_layers, take_over
from lit_long.model.levers import NO_LEVERS, Levers, apply_levers
from lit_long.model.tiling import Tiled, check_position_wise


def levers(tile_size, **options):
    return Levers(**{"checkpointing": "none", "offload": False, "tile_size": tile_size} | options)


@pytest.fixture
def batch(corpus_dir):
    return text_batch(corpus_dir, rows=2, length=96, cuts=(40,))


@pytest.mark.parametrize("tile_size", [1, 32, 50, 64, 191, 192, 10_000])
def test_equal_to_float64_whatever_the_tile(tiny_config, batch, tile_size):
    expected = step(tiny_model(tiny_config).double(), batch)
    loss, grads = step(tiny_model(tiny_config, levers=levers(tile_size)).double(), batch)
    assert torch.allclose(loss, expected[0], rtol=1e-12)
    assert worst(grads, expected[1]) < 1e-7  # norms of transformers are in float32


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_which_weights_get_a_gradient(tiny_config, batch, lora):
    plain, tiled = (tiny_model(tiny_config, lora=lora, levers=setting) for setting in (None, levers(32)))
    for model in (plain, tiled):
        if lora is not None:  # also nothing below the first layer
            model.get_input_embeddings().weight.requires_grad_(False)
        else:
            decoder_layers(model)[0].mlp.up_proj.weight.requires_grad_(False)
    expected = step(plain, batch)
    found = step(tiled, batch)
    assert torch.allclose(found[0], expected[0], rtol=1e-6)
    assert worst(found[1], expected[1]) < 1e-6


def test_bfloat16_weights_sum_their_gradient_in_float32(tiny_config, batch):
    """96 tiles of two tokens; summed in bfloat16, the later ones would be lost in part."""
    exact = step(tiny_model(tiny_config).bfloat16().double(), batch)[1]
    whole = step(tiny_model(tiny_config).bfloat16(), batch)[1]
    tiles = step(tiny_model(tiny_config, levers=levers(4)).bfloat16(), batch)[1]
    assert worst(tiles, exact) < 1.1 * worst(whole, exact)


def test_the_insides_are_never_there_for_the_whole_length(tiny_config, corpus_dir):
    width, peaks = 1024, {}
    for length, tile in itertools.product((1024, 2048), (0, 128)):
        mlp = tiny_model(tiny_config, intermediate_size=width, num_hidden_layers=1).get_decoder().layers[0].mlp
        if tile:
            take_over(Tiled(mlp, tile))
        hidden = torch.randn(1, length, 64, requires_grad=True)
        with Alive() as alive:
            mlp(hidden).square().sum().backward()
        peaks[length, tile] = alive.peak
    a_width = 4 * width * 1024  # bytes by which one value of that width grows between the lengths
    assert peaks[2048, 0] - peaks[1024, 0] > 4 * a_width
    assert peaks[2048, 128] - peaks[1024, 128] < 0.6 * a_width  # input, result and their gradients


def test_under_checkpointing_it_is_no_more_work(tiny_config, batch):
    """The second run of a layer ends at the noted input of its MLP."""

    def work(setting):
        model = tiny_model(tiny_config, levers=setting)
        with Operators() as operators:
            step(model, batch)
        return operators.count["aten::silu"]

    tiles = 6
    assert work(levers(32, checkpointing="full")) == work(levers(32)) == 2 * tiles * work(NO_LEVERS)


def test_weights_sharded_behind_its_back_are_an_error(tiny_config, batch):
    model = tiny_model(tiny_config, levers=levers(32))
    loss = step_forward(model, batch)
    mlp = model.get_decoder().layers[0].mlp
    mlp.up_proj.weight = nn.Parameter(mlp.up_proj.weight.detach().clone())
    with pytest.raises(RuntimeError, match="the weights of LlamaMLP are not those of its forward; shard whole"):
        loss.backward()


def step_forward(model, batch):
    from lit_long.model.forward import next_token_loss

    return next_token_loss(model, batch).loss


class Mixing(nn.Module):
    def forward(self, hidden):
        return hidden + hidden.roll(1, dims=1)


class Placed(nn.Module):
    def forward(self, hidden):
        return hidden * torch.arange(hidden.shape[1])[None, :, None]


class Causal(nn.Module):
    def forward(self, hidden):
        return hidden.cumsum(dim=1)


class Pair(nn.Module):
    def forward(self, hidden):
        return hidden, hidden


class Drops(nn.Module):
    def forward(self, hidden):
        return torch.nn.functional.dropout(hidden, 0.5, self.training)


class Hungry(nn.Module):
    def forward(self, hidden, router):
        return hidden


class Broken(nn.Module):
    def forward(self, hidden):
        return hidden * float("nan")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Mixing(), "a token's result depends on"),
        (Placed(), "a token's result depends on its place"),
        (Causal(), "a token's result depends on"),
        (nn.Sequential(nn.Linear(16, 16), nn.Dropout(0.5)), r"it is random \(1 is dropout of 0.5\)"),
        (Pair(), "it returns tuple, not one tensor"),
        (Hungry(), "missing 1 required positional argument: 'router'"),
        (Broken(), "it is random"),
        (nn.Linear(8, 16), "cannot be multiplied"),
        (nn.Flatten(0, 1), "it returns Tensor, not one tensor with a row a token"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_not_position_wise_is_refused_by_name(module, message):
    with pytest.raises(UserError, match=message) as caught:
        check_position_wise(module, 16, "layer 3: mlp")
    assert str(caught.value).startswith(f"layer 3: mlp ({type(module).__name__}) cannot be run in tiles: ")
    assert str(caught.value).endswith("Set model.levers.tile_size: 0")


def test_dropout_of_a_model_in_evaluation_is_found_and_it_stays_there():
    module = nn.Sequential(nn.Linear(16, 16), Drops()).eval()
    module[0].train()
    with pytest.raises(UserError, match=r"layer 3: mlp \(Sequential\) cannot be run in tiles: it is random"):
        check_position_wise(module, 16, "layer 3: mlp")
    assert [part.training for part in module.modules()] == [False, True, False]


def test_a_router_passes_where_it_is_position_wise(corpus_dir):
    """Mixtral sends each token to experts by that token alone; every expert may be unused in a tile."""
    config = {
        "model_type": "mixtral", "vocab_size": 4096, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
        "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 256, "sliding_window": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    }  # fmt: skip
    packed = text_batch(corpus_dir, length=24, cuts=(10,))
    expected = step(tiny_model(config), packed)
    found = step(tiny_model(config, levers=levers(3)), packed)
    assert torch.allclose(found[0], expected[0], rtol=1e-6)
    assert worst(found[1], expected[1]) < 1e-5


def test_other_mistakes(tiny_config):
    model = tiny_model(tiny_config)
    for layer in model.get_decoder().layers:
        layer.block = layer.mlp
        del layer.mlp
    with pytest.raises(UserError, match=r"2 of 2 layers have no module named mlp; the first layer has \[.*block"):
        apply_levers(model, levers(32))
    model = tiny_model(tiny_config)
    model.get_decoder().layers[1].mlp = Mixing()
    with pytest.raises(UserError, match=r"layer 1: mlp \(Mixing\) cannot be run in tiles"):
        apply_levers(model, levers(32))
    assert "forward" not in vars(model.get_decoder().layers[0].mlp)  # nothing was changed before


def test_on_the_meta_device_a_copy_is_probed(tiny_config):
    with torch.device("meta"):
        model = tiny_model(tiny_config)
    apply_levers(model, levers(32))
    assert all(p.is_meta for p in model.parameters())
    assert isinstance(model.get_decoder().norm.forward, Tiled)


def test_without_gradients(tiny_config, batch):
    model = tiny_model(tiny_config, levers=levers(32))
    with torch.no_grad():
        mine, other = (m(batch["input_ids"], use_cache=False).logits for m in (model, tiny_model(tiny_config)))
    torch.testing.assert_close(mine, other)
