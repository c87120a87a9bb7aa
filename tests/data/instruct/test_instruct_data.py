"""InstructData: the loss that every example asks for, however it is packed, padded, divided and resumed."""

import json
import shutil

import pytest
import torch
from chat_templates import CHATML
from transformers import AutoTokenizer

from lit_long.data import InstructData, InstructSource
from lit_long.data.instruct.batch import weighted_batch
from lit_long.errors import UserError
from tests.parallel.parallel_runs import fit, fit_on_mesh, lines

LENGTH = 240
TRAINED = ("loss", "grad_norm")


def maker(chats, cache, **options):
    """Makes the data of a run: short and long chats, two sequences of each kind a step."""

    def make():
        settings = {
            "sources": {
                "short": InstructSource(path=str(chats / "short.jsonl")),
                "long": InstructSource(path=str(chats / "long.jsonl"), long=True, too_long="truncate"),
            },
            "weights": {"short": 1, "long": 1},
            "sequence_length": LENGTH,
            "tokens_per_step": 4 * LENGTH,
            "cache": str(cache),
            "max_epochs": 100,
        }
        return InstructData(**settings | options)

    return make


def run(chats, model, folder, *, mesh=None, **options):
    folder.mkdir(parents=True, exist_ok=True)
    data = maker(chats, folder.parent / "cache", **options)
    if mesh is None:
        fit(None, model, folder, data=data, steps=3, length=LENGTH)
    else:
        fit_on_mesh(None, model, folder, mesh=mesh, data=data, steps=3, length=LENGTH)
    return lines(folder, *TRAINED)


def opened(chats, model, cache, **options):
    data = maker(chats, cache, tokenizer=model, **options)()
    data.open_stores()
    data._plan(3)
    return data


def reference(data, model):
    """Loss of the first step in float64, one example after the other in stock transformers, from the written rules."""
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="sdpa").eval()
    total = whole = 0.0
    for row in data.plan.step(0):
        part = data.parts[row.part]
        corpus, counted = part.documents.corpus, data.input_loss == "all"
        counted = counted or (data.input_loss == "long" and part.name == "long")
        for document in row.pieces[:, 0].tolist():
            size = int(corpus.starts[document + 1] - corpus.starts[document])
            ids = torch.tensor(corpus.span(document, 0, size).astype("int64"))[None]
            marks = torch.tensor(corpus.assistant(document, 0, size))
            with torch.no_grad():
                logits = stock(input_ids=ids).logits[0, :-1]
            nll = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
            weight = torch.where(marks[1:], 1.0, data.input_loss_weight if counted else 0.0).double()
            scale = {"token": 1.0, "sample": 1 / weight.sum(), "sqrt": weight.sum() ** -0.5}[data.loss_weighting]
            total += float((nll * weight).sum() * scale)
            whole += float(weight.sum() * scale)
    return total / whole


@pytest.mark.parametrize("weighting", ["token", "sample", "sqrt"])
@pytest.mark.parametrize("input_loss", ["none", "long", "all"])
def test_batches_are_the_sum_over_examples(weighting, input_loss, chats, chat_model, tmp_path):
    from transformers import AutoModelForCausalLM

    from lit_long.model.forward import next_token_loss

    options = {"loss_weighting": weighting, "input_loss": input_loss, "input_loss_weight": 0.5}
    data = opened(chats, chat_model, tmp_path, **options)
    rows = data.plan.step(0)
    weights = data.target_weights
    model = AutoModelForCausalLM.from_pretrained(chat_model, dtype=torch.float32).eval()
    from lit_long.attention import use_packed_attention

    use_packed_attention(model)
    found = {}
    for padded in (True, False):
        batch = weighted_batch(rows, weights, weights.step(rows), pad_id=0, padded=padded)
        assert batch["step_target_weight"] == pytest.approx(float(batch["target_weights"].double().sum()), rel=1e-6)
        with torch.no_grad():
            found[padded] = float(next_token_loss(model, batch).loss) / batch["step_target_weight"]
    assert found[False] == pytest.approx(found[True], rel=1e-6)
    assert found[True] == pytest.approx(reference(data, chat_model), rel=1e-5)


@pytest.fixture(scope="module")
def plain(chats, chat_model, tmp_path_factory):
    return run(chats, chat_model, tmp_path_factory.mktemp("runs") / "plain", input_loss="long", loss_weighting="sqrt")


@pytest.mark.parametrize(
    ("mesh", "options"),
    [(None, {"micro_batch": 4}), (None, {"padding": True}), ((2, 1), {}), ((1, 2), {"micro_batch": 2})],
    ids=["micro-batch 4", "padded", "dp2", "cp2"],
)
def test_a_run_is_the_same_however_it_is_divided(mesh, options, plain, chats, chat_model, tmp_path):
    options = {"input_loss": "long", "loss_weighting": "sqrt"} | options
    found = run(chats, chat_model, tmp_path / "run", mesh=mesh, **options)
    assert found.keys() == plain.keys()
    for step, values in plain.items():
        assert found[step] == pytest.approx(values, rel=2e-5)


def test_the_loss_asked_for_is_the_one_trained_on(plain, chats, chat_model, tmp_path):
    assert plain != run(chats, chat_model, tmp_path / "run", input_loss="none", loss_weighting="sqrt")


def test_resumed_is_the_run_that_was_not_stopped(plain, chats, chat_model, tmp_path):
    template = tmp_path / "chat.jinja"
    template.write_text(CHATML)
    data = maker(chats, tmp_path / "cache", input_loss="long", loss_weighting="sqrt", chat_template=str(template))
    fit(None, chat_model, tmp_path / "run", data=data, steps=2, length=LENGTH, save_every=2, stop=2)
    last = str(tmp_path / "run" / "checkpoints" / "last.ckpt")
    fit(None, chat_model, tmp_path / "run", data=data, steps=3, length=LENGTH, ckpt=last)
    found = lines(tmp_path / "run", *TRAINED)
    assert found[2] == plain[2]
    # what a release must render and stop with, the base model's tokenizer not being enough
    training = torch.load(last, weights_only=True)["lit_long"]["training"]
    assert training["chat_template"] == CHATML
    assert training["stop_token_id"] == AutoTokenizer.from_pretrained(chat_model).convert_tokens_to_ids("<|im_end|>")
    other = maker(chats, tmp_path / "cache", seed=1)
    with pytest.raises(UserError, match="trained on another data order"):
        fit(None, chat_model, tmp_path / "other", data=other, steps=3, length=LENGTH, ckpt=last)


def test_long_ones_are_alone_and_short_ones_packed(chats, chat_model, tmp_path):
    data = opened(chats, chat_model, tmp_path)
    for row in data.plan.step(0):
        assert (len(row.pieces) == 1) == (data.parts[row.part].name == "long")
    seen = {name: set() for name in ("short", "long")}
    for step in range(3):
        for row in data.plan.step(step):
            seen[data.parts[row.part].name] |= set(row.pieces[:, 0].tolist())
    assert seen == {"short": set(range(12)), "long": set(range(5))}


def test_pretraining_text_beside_chats(chats, chat_model, tmp_path, books):
    from lit_long.data.prepare import PrepareConfig, Source, prepare

    corpus = tmp_path / "corpus"
    prepare(PrepareConfig(tokenizer=chat_model, sources=(Source(path=str(books)),), output=str(corpus)))
    sources = {"short": InstructSource(path=str(chats / "short.jsonl")), "text": InstructSource(corpus=str(corpus))}
    data = opened(chats, chat_model, tmp_path, sources=sources, weights={"short": 1, "text": 1})
    rows = data.plan.step(0)
    batch = weighted_batch(rows, data.target_weights, data.target_weights.step(rows), pad_id=0, padded=True)
    for number, row in enumerate(rows):
        if data.parts[row.part].name == "text":  # every token but the last of a document is predicted from
            assert int((batch["target_weights"][number] > 0).sum()) >= row.tokens - len(row.pieces)
    assert batch["step_target_weight"] == pytest.approx(float(batch["target_weights"].sum()))


def test_held_out_examples_are_never_trained_on(chats, chat_model, tmp_path):
    data = opened(chats, chat_model, tmp_path, held_out_share=0.4)
    kept = {}
    for side, parts in (("train", data.parts), ("held out", list(data.held_out.values()))):
        kept[side] = {
            part.documents.corpus.span(d, 0, int(n)).tobytes()
            for part in parts
            for d, n in enumerate(part.documents.corpus.starts[1:] - part.documents.corpus.starts[:-1])
        }
    assert kept["held out"]
    assert not kept["train"] & kept["held out"]
    assert len(kept["train"] | kept["held out"]) == 17
    batches = [batch for loader in data.val_dataloader() for batch in loader]
    own = sum(int(part.documents.corpus.targets.sum()) for part in data.held_out.values())
    assert sum(int((batch["target_ids"] != -100).sum()) for batch in batches) == own


def test_counts_and_cache(chats, chat_model, tmp_path):
    rows = (chats / "short.jsonl").read_text()
    bad = json.dumps({"messages": [{"role": "user", "content": "?"}]})
    place = tmp_path / "rows"
    place.mkdir()
    (place / "a.jsonl").write_text(rows + bad + "\n")
    (place / "b.jsonl").write_text(rows.replace("What follows", "What comes after"))
    source = InstructSource(path=str(place), max_bad=1)
    data = maker(chats, tmp_path / "cache", tokenizer=chat_model, sources={"s": source}, weights=None)()
    folder, counts = data.build("s")
    assert (counts.rows, counts.examples) == (25, 24)
    assert counts.left_out == {"cannot be rendered or masked": 1}
    stamp = (folder / "train" / "tokens.int32").stat().st_mtime_ns
    again, same = data.build("s")
    assert (again, same) == (folder, counts)
    assert (folder / "train" / "tokens.int32").stat().st_mtime_ns == stamp
    shutil.copy(place / "b.jsonl", place / "c.jsonl")
    assert data.build("s")[0] != folder


@pytest.mark.parametrize(
    ("content", "options", "says"),
    [
        ('{"messages": [}', {}, r"a\.jsonl:1: no JSON"),
        ('{"question": "?"}', {}, r"a\.jsonl:1: columns \['question'\] are of no known chat format"),
        ('{"messages": [{"role": "wizard", "content": "?"}]}', {}, r"a\.jsonl:1: message 0 has the role 'wizard'"),
        (
            '{"prompt": "?", "completion": "LONG"}',
            {},
            r"a\.jsonl:1: [\d,]+ tokens, 240 fit\. Raise data\.sequence_length",
        ),
        ('{"prompt": "?", "completion": "LONG"}', {"too_long": "drop"}, "gave no example"),
        ("", {}, r"gave no example \(0 rows read\)"),
    ],
)
def test_bad_rows_are_named(content, options, says, chats, chat_model, tmp_path):
    (tmp_path / "a.jsonl").write_text(content.replace("LONG", "a long answer " * 300) + "\n")
    source = InstructSource(path=str(tmp_path / "a.jsonl"), **options)
    data = maker(chats, tmp_path / "cache", tokenizer=chat_model, sources={"s": source}, weights=None)()
    with pytest.raises(UserError, match=says):
        data.build("s")
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sources": {}}, "data.sources is empty"),
        ({"sources": {"s": InstructSource()}}, "data.sources.s: give path"),
        ({"held_out_share": 0.9}, "held_out_share is 0.9"),
        ({"weights": {"short": 1}}, "source 'long' has no weight"),
        ({"tokens_per_step": LENGTH + 1}, "tokens_per_step"),
    ],
)
def test_settings_are_checked_at_once(options, says, chats, tmp_path):
    with pytest.raises(UserError, match=says.replace(".", r"\.")):
        maker(chats, tmp_path, **options)()
