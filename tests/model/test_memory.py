"""The memory model against what PyTorch really keeps, and the choice of levers by it."""

import itertools

import pytest
import torch
from tiny_runs import Alive, saved_bytes, step, tiny_model

from lit_long.errors import UserError
from lit_long.model.choose import TILE, choose_levers, decide_levers
from lit_long.model.levers import NO_LEVERS, Levers
from lit_long.model.lora import LoraSettings, add_lora
from lit_long.model.memory import PRECISIONS, RESERVE, ModelFacts, RunFacts, device_memory, estimate, layer_bytes

CONFIG = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 176, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}  # fmt: skip


def batch(length):
    ids = torch.randint(0, 512, (1, length + 1))
    position = torch.arange(length // 4).repeat(4)[None]
    return {"input_ids": ids[:, :-1], "target_ids": ids[:, 1:], "position_ids": position}


def levers(checkpointing, **options):
    return Levers(**{"checkpointing": checkpointing, "offload": False, "tile_size": 0} | options)


@pytest.mark.parametrize("precision", sorted(PRECISIONS))
def test_what_autograd_keeps_of_a_layer_is_counted_exactly(precision):
    """Difference of models of three layers and one, at two lengths: bytes a token and bytes a layer."""
    dtype = torch.bfloat16 if precision == "bf16-gathered" else torch.float32

    def kept(layers, length):
        model = tiny_model(CONFIG, num_hidden_layers=layers, dtype=dtype)
        packed = batch(length)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False):
            return saved_bytes(
                lambda: model.get_decoder()(
                    input_ids=packed["input_ids"], position_ids=packed["position_ids"], use_cache=False
                ),
                model,
            )

    facts = ModelFacts.of(tiny_model(CONFIG))
    short, long = ((kept(3, n) - kept(1, n)) // 2 for n in (256, 512))
    per_token = (long - short) / 256
    assert per_token == sum(layer_bytes(facts, PRECISIONS[precision]))
    matrices = facts.layer_parameters - 2 * facts.hidden
    assert short - per_token * 256 == PRECISIONS[precision].cast_weights * matrices


CASES = [
    NO_LEVERS,
    levers("selective"),
    levers("full"),
    levers("full", checkpoint_every=2),
    levers("selective", tile_size=256),
    levers("full", tile_size=256),
    levers("full", tile_size=256, offload=True),
]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("setting", CASES, ids=str)
def test_peak_of_a_step(setting, precision):
    """Never below what is really alive at the highest point of a step, and not far above."""
    model, packed, amp = tiny_model(CONFIG, levers=setting), batch(2048), precision == "bf16-mixed"
    step(model, packed, amp=amp)  # gradients are there, as in every micro-batch but the first
    for parameter in model.parameters():
        parameter.grad.zero_()
    with Alive() as alive, torch.autocast("cpu", torch.bfloat16, enabled=amp, cache_enabled=False):
        from lit_long.model.forward import next_token_loss

        loss = next_token_loss(model, packed, chunk_size=32).loss
    with alive:
        loss.backward()
    run = RunFacts(sequence_length=2048, memory=0, precision=precision, loss_chunk_size=32)
    predicted = estimate(ModelFacts.of(model), run, setting)
    assert 1.0 <= (predicted.activations + predicted.host) / alive.peak < 1.35


def facts(**changes):
    """Llama-3.1-8B."""
    values = {
        "layers": 32, "hidden": 4096, "intermediate": 14336, "heads": 32, "query_width": 4096, "key_width": 1024,
        "vocabulary": 128256, "parameters": 8_030_261_248, "trained": 8_030_261_248,
        "layer_parameters": 218_112_000, "head_trained": True,
    }  # fmt: skip
    return ModelFacts(**values | changes)


def weight(chosen):
    """Position on the ladder."""
    order = ["none", "selective", "full"].index(chosen.checkpointing)
    return order, chosen.tile_size > 0, bool(chosen.offload)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("trained", [8_030_261_248, 20_000_000])
@pytest.mark.parametrize("memory", [24, 80, 180, 1000])
def test_longer_never_uses_fewer_levers(memory, trained, device):
    model = facts(trained=trained, head_trained=trained > 10**9)
    lengths = sorted({*(2**n for n in range(8, 22)), 5000, 100_000})
    chosen = []
    for length in lengths:
        run = RunFacts(sequence_length=length, memory=memory * 10**9, precision="bf16-mixed", device_type=device)
        chosen.append(choose_levers(model, run))
        assert not chosen[-1].levers.open
    for before, after in itertools.pairwise(chosen):
        assert all(a <= b for a, b in zip(weight(before.levers), weight(after.levers), strict=True))
    # and more memory never uses more
    for choice, length in zip(chosen, lengths, strict=True):
        run = RunFacts(sequence_length=length, memory=2 * memory * 10**9, precision="bf16-mixed", device_type=device)
        assert weight(choose_levers(model, run).levers) <= weight(choice.levers)


def test_the_ladder_on_one_80_gb_gpu():
    adapters = facts(trained=20_000_000, head_trained=False)

    def on(length, device="cuda"):
        run = RunFacts(sequence_length=length, memory=80 * 10**9, precision="bf16-mixed", device_type=device)
        return choose_levers(adapters, run)

    assert on(1024).levers == NO_LEVERS
    assert on(1024).reasons == (
        f"levers: checkpointing none: {on(1024).memory}; fits 72.00 GB for 1 x 1,024 tokens in bf16-mixed",
    )
    assert on(8192).levers.checkpointing == "selective"
    assert not on(8192).levers.offload
    longest = on(4_000_000)
    assert longest.levers == levers("full", tile_size=TILE, offload=True)
    assert "may not fit 72.00 GB" in longest.reasons[-2]
    assert "shorten data.sequence_length" in longest.reasons[-1]
    assert on(4_000_000, "cpu").levers.offload is False
    for length in (1024, 8192, 65536):
        assert on(length).memory.total <= RESERVE * 80 * 10**9


def test_pins_hold():
    small = RunFacts(sequence_length=512, memory=10**12)
    large = RunFacts(sequence_length=2**20, memory=10**9, precision="bf16-mixed")
    for run in (small, large):
        assert choose_levers(facts(), run, levers("full", checkpoint_every=3)).levers == levers(
            "full", checkpoint_every=3
        )
        assert choose_levers(facts(), run, Levers(checkpointing="none")).levers.offload is False
        assert choose_levers(facts(), run, Levers(offload=False)).levers.offload is False
        assert choose_levers(facts(), run, Levers(tile_size=100)).levers.tile_size == 100
        assert choose_levers(facts(), run, Levers(compile=True)).levers.compile is True
        # what can only be done with checkpointing brings it
        assert choose_levers(facts(), run, Levers(offload=True)).levers.checkpointing != "none"
        assert choose_levers(facts(), run, Levers(checkpoint_every=2)).levers.checkpointing != "none"


def test_without_knowing_the_run_auto_is_off(tiny_config):
    model = tiny_model(tiny_config)
    chosen, reasons = decide_levers(model, Levers(compile=True), None)
    assert chosen == Levers(checkpointing="none", offload=False, tile_size=0, compile=True)
    assert reasons == ("levers: auto is off, because how long its sequences are is not known here",)
    assert decide_levers(model, NO_LEVERS, None) == (NO_LEVERS, ())
    assert Levers(offload=True).closed() == Levers(checkpointing="selective", offload=True, tile_size=0)
    model.get_decoder().blocks = model.get_decoder().layers
    del model.get_decoder().layers
    run = RunFacts(sequence_length=512, memory=1)
    chosen, reasons = decide_levers(model, Levers(), run)
    assert chosen == NO_LEVERS
    assert "llama: LlamaModel has no list of decoder layers named 'layers'" in reasons[0]


def test_tiles_that_nobody_asked_for_are_left_out_where_they_cannot_be(tiny_config):
    model = add_lora(tiny_model(tiny_config), LoraSettings(r=4, target_modules=("down_proj",), dropout=0.1))
    run = RunFacts(sequence_length=32_768, memory=1)  # nothing fits, so every lever is pulled
    chosen, reasons = decide_levers(model, Levers(), run)
    assert (chosen.tile_size, chosen.checkpointing) == (0, "full")
    assert reasons[0].startswith("no tiles: layer 0: mlp (LlamaMLP) cannot be run in tiles: it is random (")
    assert "lora_dropout.default is dropout of 0.1" in reasons[0]
    assert decide_levers(tiny_model(tiny_config), Levers(), run)[0].tile_size == TILE
    assert decide_levers(model, Levers(tile_size=64), run)[0].tile_size == 64  # asked for: refused where it is put on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checkpoint_every": 0}, "levers.checkpoint_every is 0; it must be 1 or more"),
        ({"tile_size": -1}, "levers.tile_size is -1"),
        ({"checkpointing": "none", "offload": True}, "levers.offload moves the inputs of checkpointed layers"),
        ({"checkpointing": "none", "checkpoint_every": 2}, "levers.checkpoint_every is 2, and levers.checkpointing"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        Levers(**options)


def test_memory_of_this_machine():
    total = device_memory(torch.device("cpu"))
    assert 10**8 < total < 10**14
    assert device_memory(torch.device("cpu"), 2) == total // 2


def test_sharding_and_context_ranks():
    with torch.device("meta"):
        model = tiny_model(CONFIG)
    facts = ModelFacts.of(model)
    run = {"sequence_length": 1024, "memory": 2**30}
    alone = estimate(facts, RunFacts(**run), levers("none"))
    shared = estimate(facts, RunFacts(**run, shards=4, context=4), levers("none"))
    root = facts.parameters - facts.layers * facts.layer_parameters
    assert shared.weights == facts.parameters + 4 * (2 * facts.layer_parameters + root)
    assert shared.optimizer == alone.optimizer // 4
    assert shared.gradients == alone.gradients // 4
    assert shared.live - alone.live == 6 * 4096 * facts.key_width * 4
