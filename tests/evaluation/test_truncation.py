import math

import pytest
import torch
from evaluation_stubs import VOCABULARY, CopyModel, periodic_corpus, random_corpus, tiny_llama

from lit_long.evaluation import context_gain, position_nll, take_windows
from lit_long.evaluation.truncation import plan_contexts, target_nll

UNIFORM = math.log(VOCABULARY)


def test_plan_spans_half_the_native_length_to_the_whole_window():
    windows = take_windows(random_corpus([9000]), 2048, 4, seed=0)
    plan = plan_contexts(windows, 256)
    assert plan.target_tokens == 128
    assert plan.contexts == (128, 256, 512, 1024, 2048)
    assert plan.kept == 256
    assert plan.extra_tokens == 128 + 256 + 512 + 1024 + 2048
    odd = plan_contexts(windows, 96)
    assert (odd.target_tokens, odd.contexts[:3], odd.contexts[-1]) == (64, (64, 96, 192), 2048)
    inside = plan_contexts(windows, 8192)
    assert (inside.target_tokens, inside.contexts, inside.kept) == (1024, (1024, 2048), None)


def test_gain_of_a_model_that_copies_from_far_is_found():
    windows = take_windows(periodic_corpus(6, size=1500, period=300), 1024, 6, seed=0)
    gain = context_gain(CopyModel(period=300), windows, native_length=128)
    assert gain.plan.contexts == (64, 128, 256, 512, 1024)
    means = [estimate.mean for estimate in gain.loss]
    assert means[:3] == pytest.approx([UNIFORM] * 3, abs=1e-5)  # the source is 300 tokens back: out of reach
    copied = math.log(math.exp(4) + VOCABULARY - 1) - 4
    assert means[3:] == pytest.approx([copied] * 2, abs=1e-5)
    assert gain.gain[3].direction == gain.gain[4].direction == 1
    assert gain.best_truncation == 512
    assert gain.full_minus_best.mean == pytest.approx(0, abs=1e-6)
    # nearest 128 tokens kept: the source lies in another document's prefix, and the prediction is wrong there
    assert gain.foreign_documents
    assert gain.prefix_gain.direction == 1
    assert gain.shuffled_loss.mean > UNIFORM


def test_full_window_beats_the_best_truncation_only_where_it_does():
    windows = take_windows(periodic_corpus(6, size=1500, period=700), 1024, 6, seed=0)
    gain = context_gain(CopyModel(period=700), windows, native_length=128)
    assert gain.full_minus_best.direction == -1
    assert gain.full_minus_best.mean == pytest.approx(gain.loss[-1].mean - UNIFORM, abs=1e-5)


def test_a_model_without_memory_gains_nothing():
    windows = take_windows(random_corpus([1500] * 6), 1024, 6, seed=0)
    gain = context_gain(CopyModel(period=10**6), windows, native_length=128)
    assert all(abs(estimate.mean) < 1e-6 for estimate in (*gain.gain, gain.full_minus_best, gain.prefix_gain))


def test_targets_and_contexts_are_the_right_tokens():
    windows = take_windows(random_corpus([700] * 4), 300, 4, seed=0)
    model = tiny_llama()
    gain = context_gain(model, windows, native_length=128)
    assert gain.plan.contexts == (64, 128, 256, 300)
    with torch.no_grad():
        for column, context in enumerate(gain.plan.contexts):
            for window in range(4):
                ids = windows.ids[window, 300 - context :]
                logits = model(ids[None, :-1]).logits[0, -64:]
                expected = torch.nn.functional.cross_entropy(logits, ids[-64:])
                assert gain.window_loss[window, column].item() == pytest.approx(expected.item(), abs=1e-5)


def test_known_full_losses_are_not_measured_again():
    windows = take_windows(random_corpus([700] * 4), 300, 4, seed=0)
    model = tiny_llama()
    full, counted = position_nll(model, windows.ids), []
    gain = context_gain(model, windows, native_length=128, full_nll=full, progress=counted.append)
    assert sum(counted) == 4 * gain.plan.extra_tokens
    assert torch.equal(gain.window_loss, context_gain(model, windows, native_length=128).window_loss)


def test_restarted_windows_keep_the_first_token():
    windows = take_windows(random_corpus([700] * 4), 300, 4, seed=0, first_token=5)
    model = tiny_llama()
    gain = context_gain(model, windows, native_length=128)
    ids = windows.ids[0, 300 - 64 :].clone()
    ids[0] = 5
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(ids[None, :-1]).logits[0], ids[1:])
    assert gain.window_loss[0, 0].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_single_document_says_that_prefixes_are_not_foreign():
    windows = take_windows(random_corpus([3000]), 300, 4, seed=0)
    assert not context_gain(tiny_llama(), windows, native_length=128).foreign_documents
    single = take_windows(random_corpus([700]), 300, 1, seed=0)
    alone = context_gain(tiny_llama(), single, native_length=128)
    assert alone.prefix_gain is None
    assert alone.full_minus_best.half_width is None


def test_foreign_prefix_swaps_exactly_what_lies_before_the_nearest_tokens():
    windows = take_windows(random_corpus([700] * 4), 300, 8, seed=0)
    seen = []

    def measure(ids):
        seen.append(ids)
        return torch.zeros(ids.shape[0], ids.shape[1] - 1)

    target_nll(measure, windows, plan_contexts(windows, 128), torch.zeros(8, 300))
    mixed = seen[-1]
    assert torch.equal(mixed[:, -129:], windows.ids[:, -129:])  # 128 inputs and the last target
    for window in range(8):
        prefix = mixed[window, : 300 - 128]
        [donor] = [w for w in range(8) if torch.equal(windows.ids[w, : 300 - 128], prefix)]
        assert windows.documents[donor] != windows.documents[window]
