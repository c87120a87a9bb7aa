"""Answers, gold losses, resuming and summaries, on the real model against stock transformers."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_long.errors import UserError
from lit_long.evaluation import answers as answers_module
from lit_long.evaluation.answers import Gold, answer, continuation_ids, gold_behind
from lit_long.evaluation.long_qa import run as run_module
from lit_long.evaluation.long_qa.catalogue import TASKS
from lit_long.evaluation.long_qa.prompts import fit_prompt
from lit_long.evaluation.long_qa.run import ask
from lit_long.evaluation.long_qa.summary import difference, markdown, summarise_task

PROGRESS = SimpleNamespace(start=lambda name, tokens: None, advance=lambda tokens: None, note=lambda message: None)


@pytest.fixture(scope="module")
def loaded(smollm2):
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="module")
def questions(data):
    return TASKS["scrolls/qasper"].read("validation", data)


def test_batch_equals_stock_generate_one_by_one(loaded, questions):
    model, tokenizer = loaded
    limits = (120, 200, 160)
    prompts = [fit_prompt(q.layout, tokenizer, n).ids for q, n in zip(questions, limits, strict=True)]
    golds = [Gold("A:", " seven grey geese"), None, Gold("A:", " a fox")]
    found = answer(model, tokenizer, prompts, new_tokens=12, golds=golds)
    assert found[1].gold_nll is None
    for prompt, gold, said in zip(prompts, golds, found, strict=True):
        with torch.no_grad():
            stock = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=12)[0, len(prompt) :]
            assert said.text == tokenizer.decode(stock, skip_special_tokens=True).strip()
            if gold is not None:
                ids = tokenizer(gold.text, add_special_tokens=False)["input_ids"]
                logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
                expected = torch.nn.functional.cross_entropy(logits, torch.tensor(ids)).item()
                assert said.gold_nll == pytest.approx(expected, abs=1e-4)
                assert said.gold_tokens == len(ids)


def test_gold_answers_are_encoded_as_they_follow_the_prompt(loaded):
    _, plain = loaded
    assert gold_behind("Q: Who?, A:", " Paris ") == Gold("A:", " Paris")
    assert gold_behind("Answer:\n", "Paris") == Gold("Answer:\n", "Paris")
    from tokenizers import Tokenizer, models, normalizers
    from transformers import PreTrainedTokenizerFast

    # as Llama 2: a space in front of whatever is encoded
    core = Tokenizer(models.Unigram([("<unk>", 0.0), ("▁A:", -1.0), ("▁Paris", -1.0), ("▁", -1.0)], unk_id=0))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    sentencepiece = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")
    assert sentencepiece(" Paris")["input_ids"] == [3, 2]
    assert continuation_ids(sentencepiece, gold_behind("Who?, A:", "Paris")) == [2]
    for prompt in ("Q: Who?, A:", "Answer:\n"):
        gold = gold_behind(prompt, "Paris is right")
        whole = plain(prompt)["input_ids"] + continuation_ids(plain, gold)
        assert whole == plain(prompt + gold.text)["input_ids"]


def test_gold_loss_without_a_cache_that_can_be_cut(loaded, questions, monkeypatch):
    model, tokenizer = loaded
    prompts = [fit_prompt(q.layout, tokenizer, n).ids for q, n in zip(questions[:2], (60, 90), strict=True)]
    golds = [Gold("A:", " seven grey geese"), Gold("A:", " a fox")]
    cached = answer(model, tokenizer, prompts, new_tokens=1, golds=golds)
    monkeypatch.setattr(answers_module, "_cut_back", lambda cache, length: None)
    again = answer(model, tokenizer, prompts, new_tokens=1, golds=golds)
    assert [a.gold_nll for a in again] == pytest.approx([a.gold_nll for a in cached], abs=1e-4)


def test_packed_attention_answers_one_at_a_time(tiny_model_dir, questions):
    from lit_long.attention import use_packed_attention

    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    prompt = fit_prompt(questions[0].layout, tokenizer, 40).ids
    stock = answer(model, tokenizer, [prompt], new_tokens=5, golds=[Gold("A:", " a fox")])
    use_packed_attention(model)
    [packed] = answer(model, tokenizer, [prompt], new_tokens=5, golds=[Gold("A:", " a fox")])
    assert packed.text == stock[0].text
    assert packed.gold_nll == pytest.approx(stock[0].gold_nll, abs=1e-4)


def test_a_broken_model_is_said_not_averaged(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    with pytest.raises(UserError, match="gold answer is NaN or infinite"):
        answer(model, tokenizer, [[5, 6, 7]], new_tokens=1, golds=[Gold("A:", " a fox")])


def test_an_answer_is_its_first_line(loaded, monkeypatch):
    model, tokenizer = loaded
    said = "\n Paris\nQ: And then?"
    monkeypatch.setattr(
        type(model),
        "generate",
        lambda self, input_ids, **_: SimpleNamespace(
            sequences=torch.cat([input_ids, torch.tensor([tokenizer(said)["input_ids"]])], dim=1)
        ),
    )
    [whole] = answer(model, tokenizer, [[5, 6]], new_tokens=20)
    assert (whole.text, whole.stopped) == (said.strip(), False)
    [first] = answer(model, tokenizer, [[5, 6]], new_tokens=20, stop_at_newline=True)
    assert (first.text, first.stopped) == ("Paris", True)
    ended = [*tokenizer("Rome")["input_ids"], *[tokenizer.eos_token_id] * 4]
    monkeypatch.setattr(
        type(model),
        "generate",
        lambda self, input_ids, **_: SimpleNamespace(sequences=torch.cat([input_ids, torch.tensor([ended])], dim=1)),
    )
    [rome] = answer(model, tokenizer, [[5, 6]], new_tokens=20)
    assert (rome.text, rome.stopped, rome.tokens) == ("Rome", True, len(ended) - 4)


def test_rows_resume_after_a_kill_and_begin_again_for_another_model(tiny_model_dir, questions, tmp_path, monkeypatch):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()
    model.config.max_position_embeddings = 128
    task, asked = TASKS["scrolls/qasper"], []
    real = run_module.answer

    def counted(model, tokenizer, prompts, **options):
        asked.extend(prompts)
        return real(model, tokenizer, prompts, **options)

    monkeypatch.setattr(run_module, "answer", counted)

    def measure(key="one", limit=None):
        return ask(
            model,
            tokenizer,
            task,
            questions,
            cap=128,
            folder=tmp_path,
            model_key=key,
            progress=PROGRESS,
            limit=limit,
            batch_tokens=1,
        )

    full = measure()
    assert len(asked) == 3
    assert {len(p) for p in asked} == {128 - task.new_tokens}
    lines = full.file.read_bytes().splitlines(keepends=True)
    full.file.write_bytes(b"".join(lines[:2]) + lines[2][:20])  # killed inside the second row
    again = measure()
    assert len(asked) == 5
    assert again.rows == full.rows
    assert full.file.read_bytes() == b"".join(lines)
    assert len(measure(limit=2).rows) == 2
    assert len(asked) == 5
    measure(key="two")
    assert len(asked) == 8
    assert json.loads(full.file.read_text().splitlines()[0])["cap"] == 128


def test_a_cap_beyond_the_window_is_refused(loaded, questions, tmp_path):
    model, tokenizer = loaded
    with pytest.raises(UserError, match=r"16,384 tokens is beyond this model's window of 8,192"):
        ask(
            model,
            tokenizer,
            TASKS["scrolls/qasper"],
            questions,
            cap=16384,
            folder=tmp_path,
            model_key="",
            progress=PROGRESS,
        )


def _asked(scores, task="scrolls/qasper", cap=16384, nll=2.0, documents=5):
    rows = [
        {
            "id": str(i),
            "document": f"d{i % documents}",
            "cut_tokens": i % 2,
            "stopped": True,
            "scores": value if isinstance(value, dict) else {TASKS[task].metric: value},
            "gold_nll": nll + i,
        }
        for i, value in enumerate(scores)
    ]
    return run_module.Asked(task=TASKS[task], split="validation", cap=cap, rows=rows, file=None, available=len(rows))


def test_summary_difference_and_the_papers_numbers():
    base, long = _asked([0, 50, 100, 50] * 2), _asked([10, 60, 110, 60] * 2, nll=1.5)
    score = summarise_task(long)
    assert score.score.value == pytest.approx(60)
    assert score.documents == 5
    assert score.cut == 4
    assert score.paper["Llama 2 Long 7B"] == 27.8
    assert score.paper_source == "Table 3"
    assert summarise_task(_asked([1.0], cap=32768)).paper["Llama 2 Long 13B"] == 31.6
    assert summarise_task(_asked([1.0], cap=4096)).paper == {"Llama 2 Long 70B": 28.9}
    gap, nll = difference(base, long)
    assert (gap.value, gap.low, gap.high) == pytest.approx((10, 10, 10))  # the spread between documents cancels
    assert nll.value == pytest.approx(-0.5)
    page = "\n".join(markdown({"base": [summarise_task(base)], "long": [score]}))
    assert "| scrolls/qasper | f1 | 16,384 | 8 |" in page
    assert "Llama 2 Long 7B 27.8" in page
    assert "Prompts that were cut to their cap: base, scrolls/qasper @ 16,384: 4; long" in page


def test_intervals_are_over_documents_or_with_few_of_them_over_questions():
    scores = [0, 0, 100, 100, 50, 50, 50, 50, 50, 50] * 3
    many = summarise_task(_asked([score for score in scores for _ in range(2)], documents=30))
    assert many.interval_unit == "document"
    few = summarise_task(_asked(scores, documents=2))
    assert (few.interval_unit, few.documents) == ("question", 2)
    # 30 independent values: Student's t by hand
    values = torch.tensor(scores, dtype=torch.float64)
    half = 2.0452296 * values.std().item() / 30**0.5
    assert (few.score.low, few.score.high) == pytest.approx((50 - half, 50 + half), abs=1e-4)
    assert "intervals are over questions" in "\n".join(markdown({"m": [few]}))


def test_rouge_geo_interval_covers_its_value():
    rows = [{"rouge1": 10.0 * i, "rouge2": 5.0 * i, "rougeL": 8.0 * i} for i in range(1, 9)]
    score = summarise_task(_asked(rows, "scrolls/qmsum")).score
    assert score.value == pytest.approx((45 * 22.5 * 36) ** (1 / 3))
    assert score.low < score.value < score.high
