import pytest
import torch
from evaluation_stubs import VOCABULARY, random_corpus, tiny_llama
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM

from lit_long.errors import UserError
from lit_long.evaluation import position_nll, take_windows


@pytest.fixture(scope="module")
def ids():
    return take_windows(random_corpus([700, 700, 700]), 200, 5, seed=0).ids


def test_matches_the_stock_loss_in_float64(ids):
    model = tiny_llama().double()
    ours = position_nll(model, ids, batch_size=2, logit_chunk=33)
    assert ours.dtype == torch.float32
    assert ours.shape == (5, 200)
    with torch.no_grad():
        for window, nll in zip(ids, ours, strict=True):
            # Stock transformers shifts the labels itself: the loss is the mean over the same 200 predictions.
            stock = model(window[None], labels=window[None])
            assert nll.double().mean().item() == pytest.approx(stock.loss.item(), abs=1e-6)
            probabilities = stock.logits[0, :-1].log_softmax(-1)
            expected = -probabilities.gather(1, window[1:, None])[:, 0]
            torch.testing.assert_close(nll.double(), expected, atol=1e-5, rtol=1e-5)
    assert ours.std() > 0.1  # the model is not uniform, so a misplaced target would show


@pytest.mark.parametrize(("batch_size", "logit_chunk"), [(1, 7), (3, 1024), (5, 200), (None, 1)])
def test_batch_and_chunk_do_not_matter(ids, batch_size, logit_chunk):
    model = tiny_llama()
    expected = position_nll(model, ids, batch_size=1, logit_chunk=100_000)
    got = position_nll(model, ids, batch_size=batch_size, logit_chunk=logit_chunk)
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_progress_counts_every_input_token_and_training_mode_is_restored(ids):
    seen = []
    model = tiny_llama().train()
    position_nll(model, ids, batch_size=2, progress=seen.append)
    assert seen == [400, 400, 200]
    assert model.training


def test_other_decoder_layouts_work(ids):
    config = GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        stock = model(ids[:1], labels=ids[:1]).loss.item()
    assert position_nll(model, ids[:1]).mean().item() == pytest.approx(stock, abs=1e-5)


def test_models_that_change_their_logits_are_refused(ids):
    small = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    with pytest.raises(UserError, match=r"'gemma2'.*final_logit_softcapping=30"):
        position_nll(Gemma2ForCausalLM(Gemma2Config(**small, head_dim=16)), ids)
    with pytest.raises(UserError, match=r"'granite'.*logits_scaling=8"):
        position_nll(GraniteForCausalLM(GraniteConfig(**small, logits_scaling=8.0)), ids)


def test_the_probe_finds_what_no_config_key_tells(ids):
    model = tiny_llama()
    stock_forward = model.forward

    def forward(*args, **kwargs):
        output = stock_forward(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    model.forward = forward
    with pytest.raises(UserError, match=r"'llama'.*logits differ"):
        position_nll(model, ids)


def test_nan_is_reported_with_its_place(ids):
    model = tiny_llama(vocabulary=VOCABULARY + 1)

    def spoil(module, args, kwargs, output):
        output.last_hidden_state[kwargs["input_ids"] == VOCABULARY] = float("nan")

    model.get_decoder().register_forward_hook(spoil, with_kwargs=True)
    broken = ids.clone()
    broken[3, 50] = VOCABULARY
    with pytest.raises(UserError, match=r"is nan at window 3, position 51"):
        position_nll(model, broken, batch_size=2)


def test_foreign_tokenizer_is_refused(ids):
    with pytest.raises(UserError, match=r"token id 63.*vocabulary of 60"):
        position_nll(tiny_llama(vocabulary=60), ids)
