"""Plans against arithmetic, against the run's own choice, and as a user asks for them."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lit_long.cli.recipes import find_recipes
from lit_long.data.schedule import LengthSchedule, Stage
from lit_long.entry import main
from lit_long.errors import UserError
from lit_long.flops import model_flops
from lit_long.hardware import find_device, known_devices, read_devices
from lit_long.model.levers import Levers
from lit_long.model.memory import ModelFacts, RunFacts, estimate
from lit_long.planner import Layout, Workload, cheapest_change, layout_of, longest_sequence, make_plan, search
from lit_long.planner.timeline import highest, timeline
from lit_long.planner.workload import meta_model

ROOT = Path(__file__).parents[2] / "recipes"
H100 = find_device("h100-80gb")
LLAMA = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}, "tie_word_embeddings": False}
# hidden, intermediate, layers, heads, key/value heads, vocabulary
SHAPES = {
    "Llama-2-7b": (4096, 11008, 32, 32, 32, 32_000),
    "Llama-2-13b": (5120, 13824, 40, 40, 40, 32_000),
    "Llama-2-34b": (8192, 22016, 48, 64, 8, 32_000),
    "Llama-2-70b": (8192, 28672, 80, 64, 8, 32_000),
    "8B": (4096, 14336, 32, 32, 8, 128_256),
    "SmolLM2": (960, 2560, 32, 15, 5, 49_152),
}
NAMES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
)  # fmt: skip


def config_of(name, **changes):
    from transformers import AutoConfig

    shape = next((shape for key, shape in SHAPES.items() if key in name), SHAPES["8B"])
    return AutoConfig.for_model("llama", **LLAMA | dict(zip(NAMES, shape, strict=True)) | changes)


@pytest.fixture(scope="module")
def seventy():
    """Llama 2 70B at 32,768 tokens, 128 rows a step."""
    model = meta_model(config_of("Llama-2-70b"))
    length = 32_768
    return Workload(
        name="70B", model=model, facts=ModelFacts.of(model), flops=model_flops(model),
        spans=LengthSchedule((Stage(sequence_length=length),)).spans(steps=10, tokens_per_step=128 * length),
        tokens_per_step=128 * length, precision="32-true", optimizer_states="float32", loss_chunk_size=None,
        levers=Levers(),
    )  # fmt: skip


def cluster(nodes=8, context=8, **changes):
    return Layout(devices=8, nodes=nodes, context=context, bfloat16=True, **changes)


def test_terms_are_arithmetic(seventy):
    """70B on 64 ranks, by hand: a 64th of 4, 4 and 8 bytes a number, two layers and the root gathered in bfloat16."""
    plan = make_plan(seventy, cluster(), H100)
    layer = 2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672 + 2 * 8192
    root = 2 * 32_000 * 8192 + 8192
    whole = 80 * layer + root
    memory = plan.stages[0].memory
    assert seventy.facts.parameters == whole == 68_976_648_192
    assert memory.weights == 4 * whole // 64 + 2 * (2 * layer + root)
    assert (memory.gradients, memory.optimizer) == (4 * whole // 64, 8 * whole // 64)
    assert plan.stages[0].micro_batches == 128 // 8
    assert plan.fits
    kept = make_plan(seventy, cluster(resharded=False), H100).stages[0].memory
    assert kept.gathered == 2 * whole


def test_time_is_arithmetic(seventy):
    """One device that reaches its peak and recomputes nothing: FLOPs over peak."""
    ideal = replace(H100, memory=1e15, matmul=1.0, attention=1.0, bandwidth=1e30)
    plan = make_plan(seventy, Layout(devices=1, bfloat16=True), ideal, levers=Levers(checkpointing="none"))
    length = 32_768
    tokens, pairs = 128 * length, 128 * length * (length + 1) / 2
    by_hand = 6 * (68_976_648_192 - 32_000 * 8192 - (2 * 80 + 1) * 8192) * tokens + 3 * 4 * 80 * 8192 * pairs
    assert plan.stages[0].time.total == pytest.approx(by_hand / 989.5e12, rel=1e-6)
    assert plan.mfu == pytest.approx(1, rel=1e-6)
    shorter = make_plan(seventy, Layout(devices=1, bfloat16=True), ideal, document_length=4096)
    assert shorter.seconds < plan.seconds


def test_exchange_and_gathering_are_counted(seventy):
    """By hand: three times the keys and values of the other seven ranks; parameters twice and gradients once."""
    time = make_plan(seventy, cluster(), H100).stages[0].time
    exchange = 16 * 80 * 3 * 2 * 32_768 * 1024 * 2 * 7 / 8 / (450e9 * 0.8)
    assert time.exchange == pytest.approx(exchange)
    layers = 80 * seventy.facts.layer_parameters * 63 / 64 * (2 * 2 + 4)
    root = 2 * (seventy.facts.parameters - 80 * seventy.facts.layer_parameters)
    keys = 80 * 3 * 2 * 32_768 * 1024 * 2 * 7 / 8
    assert time.moved == pytest.approx(16 * (layers + keys) + root, rel=1e-6)
    slow = replace(H100, network=0.2e9)
    waiting = make_plan(seventy, cluster(), slow).stages[0].time
    expected = (16 * layers + root) / (8 * 0.2e9 * 0.8) - waiting.compute
    assert waiting.waiting_for_parameters == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("accumulates", [True, False])
@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
def test_picture_and_sum_agree(seventy, accumulates, checkpointing):
    """The highest moment of the timeline is the estimate that levers are chosen by."""
    for shards, offload in itertools.product((None, 64), (False, checkpointing != "none")):
        run = RunFacts(sequence_length=32_768, memory=0, shards=shards, accumulates=accumulates)
        memory = estimate(seventy.facts, run, Levers(checkpointing=checkpointing, offload=offload, tile_size=0))
        assert highest(timeline(memory, seventy.facts.layers)).total == memory.total


def test_cheapest_change_fits_and_less_does_not(seventy):
    small = make_plan(seventy, cluster(nodes=1), H100)
    assert not small.fits
    change = cheapest_change(small)
    assert change.plan.fits
    assert change.plan.layout.ranks > 8  # 16 bytes a number of 69 B are more than eight of them have
    assert change.overlay["trainer"]["num_nodes"] == change.plan.layout.nodes
    assert not make_plan(seventy, cluster(nodes=change.plan.layout.nodes // 2, context=8), H100).fits
    pinned = replace(seventy, levers=Levers(checkpointing="none"))
    change = cheapest_change(make_plan(pinned, cluster(context=1), H100))
    assert change.what == "levers free to choose"  # nothing that is not needed
    assert list(change.overlay) == ["model"]


def test_longest_sequence(seventy):
    layout = cluster()
    plan = longest_sequence(seventy, layout, H100)
    length = plan.highest.span.sequence_length
    assert plan.fits
    assert length % (1024 * 8) == 0
    spans = LengthSchedule((Stage(sequence_length=length + 8192),)).spans(steps=10, tokens_per_step=8 * (length + 8192))
    longer = replace(seventy, spans=spans, tokens_per_step=8 * (length + 8192))
    assert not make_plan(longer, layout, H100).fits


def test_search_is_sorted_and_fits(seventy):
    plans = search(seventy, cluster(), H100)
    assert len(plans) > 10
    assert all(plan.fits for plan in plans)
    seconds = [plan.seconds for plan in plans]
    assert seconds == sorted(seconds)
    assert plans[0].seconds <= make_plan(seventy, cluster(), H100).seconds


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder with nothing but the config.json of a model."""

    def folder(name):
        path = tmp_path_factory.mktemp("config")
        changes = {"max_position_embeddings": 131_072 if "3.1" in name else 4096}
        config_of(name, **changes).save_pretrained(path)
        return str(path)

    return folder


RECIPES = [r.name for r in find_recipes(ROOT) if r.kind == "recipe" and "quickstart" not in r.name]


def test_every_recipe_can_be_planned(folders, tmp_path, capsys):
    assert len(RECIPES) > 15
    for name in RECIPES:
        recipe = yaml.safe_load((ROOT / name).read_text())
        overlay = {"model": {"model": folders(recipe["model"].get("model") or "8B")}} if "model" in recipe else {}
        if recipe["model"].get("model_config"):
            overlay = {}
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(overlay))
        words = ["plan", "--config", str(ROOT / name), "--config", str(tmp_path / "model.yaml"), "--json"]
        words += ["--devices", "1"] if "one_gpu" in name or "lora" in name or "cpu" in name else [
            "--config", str(ROOT / "cluster/64xh100.yaml")
        ]  # fmt: skip
        assert main(words) in (0, 1), name
        content = json.loads(capsys.readouterr().out)
        assert content["fits"] or content["note"], name
        assert content["run"]["tokens"] > 0
        assert content["run"]["mfu"] < 1


def test_command_writes_a_report_and_an_overlay_that_fits(tmp_path, capsys):
    base = ["plan", "--config", str(ROOT / "70b_32k.yaml"), "--config", str(ROOT / "configs/llama2_70b.yaml")]
    overlay = tmp_path / "overlay.yaml"
    words = [*base, "--config", str(ROOT / "cluster/8xh100.yaml")]
    assert main([*words, "--overlay", str(overlay), "--output", str(tmp_path), "--price", "2"]) == 1
    shown = capsys.readouterr().out
    assert "**Does not fit**" in shown
    assert "The cheapest change that makes it fit" in shown
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    assert (tmp_path / "plan.md").read_text().strip() in shown
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["run"]["cost"] == pytest.approx(2 * content["run"]["gpu_hours"])
    assert main([*words, "--config", str(overlay)]) == 0
    assert "**Fits**" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "h900", "--devices", "1"], "no device 'h900'; known: a100-40gb"),
        (["--devices", "8", "trainer.strategy=ddp"], "trainer.strategy is 'ddp' on 1 x 8 devices"),
        ([], "trainer.devices is 'auto'"),
        (["--devices", "0"], "--devices is 0"),
        (["--devices", "1", "--search", "--max-length"], "give one of them"),
        (["--devices", "1", "nonsense"], "'nonsense' is no setting"),
        (["--devices", "1", "trainer.precision=16-mixed"], "trainer.precision is '16-mixed'"),
        (["--devices", "1", "trainer.max_steps=-1"], "trainer.max_steps is not set"),
        (["--devices", "1", "model.no_such_key=1"], "no_such_key"),
    ],
)
def test_a_mistake_is_one_message(words, message, capsys):
    base = ["plan", "--config", str(ROOT / "70b_32k.yaml"), "--config", str(ROOT / "configs/llama2_70b.yaml")]
    options = [word for word in words if "=" not in word and word != "nonsense"]
    assert main([*base, *options, *[word for word in words if word not in options]]) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_without_a_strategy_is_planned_with_ours(tmp_path, capsys):
    """``plan --config recipes/70b_32k.yaml --devices 8 --num-nodes 8``, and what it writes is what was planned."""
    base = ["plan", "--config", str(ROOT / "70b_32k.yaml"), "--config", str(ROOT / "configs/llama2_70b.yaml"), "--json"]
    words = [*base, "--gpu", "h100-80gb", "--devices", "8", "--num-nodes", "8", "--overlay", str(tmp_path / "o.yaml")]
    assert main(words) == 0
    content = json.loads(capsys.readouterr().out)
    assert "names no strategy" in content["note"]
    assert content["layout"]["context"] == 8
    assert main([*base, "--config", str(tmp_path / "o.yaml")]) == 0
    again = json.loads(capsys.readouterr().out)
    assert "names no strategy" not in again["note"]
    assert again["run"] == content["run"]
    assert main([*base, "--config", str(ROOT / "cluster/64xh100.yaml")]) == 0
    assert json.loads(capsys.readouterr().out)["run"] == content["run"]


def test_a_model_that_cannot_be_reached_says_what_to_do(capsys):
    words = ["plan", "--config", str(ROOT / "70b_32k.yaml"), "--devices", "8", "--num-nodes", "8"]
    assert main(words) == 2
    assert "lay the architecture over the recipe: recipes/configs/" in capsys.readouterr().err


def test_layout_of_a_recipe():
    trainer = {"devices": 8, "num_nodes": 2, "strategy": {"class_path": "lit_long.parallel.ContextParallelStrategy"}}
    assert (layout_of(trainer).context, layout_of(trainer).data) == (8, 2)  # those of a node, as the strategy itself
    trainer["strategy"]["init_args"] = {"context_parallel_size": 3}
    with pytest.raises(UserError, match="does not divide 2 x 8 devices"):
        layout_of(trainer)
    assert layout_of({"accelerator": "cpu"}).shards is None


def test_table_of_devices(tmp_path):
    for device in known_devices().values():
        assert device.source
        assert device.efficiency
        assert device.fp32 < device.bf16
    own = tmp_path / "own.yaml"
    entry = yaml.safe_load((ROOT.parent / "lit_long/hardware.yaml").read_text())["h200"]
    own.write_text(yaml.safe_dump({"mine": entry | {"memory": 96e9}}))
    assert find_device("mine", own).memory == 96e9
    own.write_text(yaml.safe_dump({"mine": entry | {"memory": "much"}}))
    with pytest.raises(UserError, match=r"mine.memory is 'much'; it must be a number above 0"):
        read_devices(own)
    own.write_text(yaml.safe_dump({"mine": {"memroy": 1}}))
    with pytest.raises(UserError, match=r"unknown keys \['memroy'\] and misses \['attention'"):
        read_devices(own)
