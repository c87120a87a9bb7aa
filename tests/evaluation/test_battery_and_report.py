import json
import os
from types import SimpleNamespace

import pytest
import torch
from evaluation_stubs import CopyModel, periodic_corpus, random_corpus, tiny_llama

from lit_long.errors import UserError
from lit_long.evaluation import evaluate_models, take_windows
from lit_long.evaluation.battery import NamedModel
from lit_long.evaluation.plot import write_plots
from lit_long.evaluation.raw_store import model_key, read_metadata, read_tensors
from lit_long.evaluation.report import to_markdown, write_report
from lit_long.evaluation.verdict import verdict


class Recorder:
    """A progress that remembers, and a loader that counts."""

    def __init__(self, models, native=128):
        self.models, self.native, self.loads, self.tokens, self.total, self.notes = models, native, [], 0, 0, []

    def load(self, path):
        self.loads.append(path)
        key = os.path.basename(path)
        return SimpleNamespace(model=self.models[key], native_length=self.native, source={"path": path})

    def start(self, name, tokens):
        self.total += tokens

    def advance(self, tokens):
        self.tokens += tokens

    def note(self, message):
        self.notes.append(message)


def evaluate(tmp_path, recorder, windows, **options):
    named = []
    for name in recorder.models:
        folder = tmp_path / "models" / name
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "config.json").exists():
            (folder / "config.json").write_text("{}")
        named.append(NamedModel(name, str(folder)))
    return evaluate_models(
        named, windows, load=recorder.load, raw_folder=tmp_path / "raw", progress=recorder, **options
    )


@pytest.fixture
def copying(tmp_path):
    """A model that copies from 700 tokens back, and one that knows nothing, on text that repeats after 700."""
    windows = take_windows(periodic_corpus(6, size=2000, period=700), 1024, 6, seed=0)
    recorder = Recorder({"blind": CopyModel(10**6), "far": CopyModel(700)})
    return evaluate(tmp_path, recorder, windows)


@pytest.fixture
def random_windows():
    return take_windows(random_corpus([800] * 4), 256, 4, seed=0)


def test_rerun_reads_everything_back(tmp_path, random_windows):
    models = {"a": tiny_llama(0), "b": tiny_llama(1)}
    first = Recorder(models)
    before = evaluate(tmp_path, first, random_windows)
    assert first.tokens == first.total == 2 * 4 * (256 + 64 + 128 + 256)  # full, two truncations, foreign prefix
    again = Recorder(models)
    after = evaluate(tmp_path, again, random_windows)
    assert (again.loads, again.tokens) == ([], 0)
    assert len(again.notes) == 2
    assert to_markdown(before) == to_markdown(after)
    assert torch.equal(before.models[1].position.nll, after.models[1].position.nll)


def test_only_a_changed_model_is_measured_again(tmp_path, random_windows):
    models = {"a": tiny_llama(0), "b": tiny_llama(1)}
    evaluate(tmp_path, Recorder(models), random_windows)
    (tmp_path / "models" / "b" / "config.json").write_text('{"changed": true}')
    again = Recorder(models)
    evaluate(tmp_path, again, random_windows)
    assert {os.path.basename(path) for path in again.loads} == {"b"}
    assert again.tokens == 4 * (256 + 64 + 128 + 256)


def test_other_windows_and_other_native_length_are_measured_again(tmp_path, random_windows):
    models = {"a": tiny_llama(0)}
    evaluate(tmp_path, Recorder(models), random_windows)
    native = Recorder(models)
    evaluate(tmp_path, native, random_windows, native_length=64)
    assert native.tokens == 4 * (64 + 128 + 256)  # the full windows are kept, contexts are new
    other = Recorder(models)
    evaluate(tmp_path, other, take_windows(random_corpus([800] * 4), 256, 4, seed=1), context_control=False)
    assert other.tokens == 4 * 256


def test_an_interrupted_model_keeps_its_full_windows(tmp_path, random_windows):
    models = {"a": tiny_llama(0)}
    evaluate(tmp_path, Recorder(models), random_windows, context_control=False)
    later = Recorder(models)
    result = evaluate(tmp_path, later, random_windows)
    assert later.tokens == 4 * (64 + 128 + 256)
    assert set(read_tensors(tmp_path / "raw" / "a.safetensors")) == {
        "nll",
        "context_64",
        "context_128",
        "context_256",
        "shuffled",
    }
    assert result.models[0].context is not None


def test_half_written_raw_files_are_ignored(tmp_path, random_windows):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "a.safetensors").write_bytes(b"\x10\x00")
    assert read_metadata(tmp_path / "raw" / "a.safetensors") == {}
    recorder = Recorder({"a": tiny_llama(0)})
    evaluate(tmp_path, recorder, random_windows)
    assert recorder.tokens > 0


def test_model_key_follows_files(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    before = model_key(str(tmp_path))
    (tmp_path / "README.md").write_text("words")
    assert model_key(str(tmp_path)) == before
    stat = (tmp_path / "model.safetensors").stat()
    (tmp_path / "model.safetensors").write_bytes(b"12345")
    os.utime(tmp_path / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    longer = model_key(str(tmp_path))
    os.utime(tmp_path / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns + 10**9))
    assert len({before, longer, model_key(str(tmp_path))}) == 3


def test_every_model_is_looked_at_before_anything_is_measured(tmp_path, random_windows):
    recorder = Recorder({"a": tiny_llama(0), "b": tiny_llama(1, vocabulary=40)})
    with pytest.raises(UserError, match=r"^b \(.*vocabulary of 40"):
        evaluate(tmp_path, recorder, random_windows)
    assert recorder.total == 0


def test_unknown_native_length_is_asked_for(tmp_path, random_windows):
    with pytest.raises(UserError, match="--native"):
        evaluate(tmp_path, Recorder({"a": tiny_llama(0)}, native=None), random_windows)


def test_report_files_hold_the_same_numbers(tmp_path, copying):
    content, files = write_report(copying, tmp_path / "out")
    assert [file.name for file in files] == ["report.json", "report.md"]
    read = json.loads(files[0].read_text())
    assert read == json.loads(json.dumps(content))
    assert set(read) == {"schema", "corpus", "windows", "native_length", "models", "paired", "power_law", "verdict"}
    assert read["windows"]["count"] == 6
    assert read["windows"]["clustered_by"] == "document"
    assert [model["name"] for model in read["models"]] == ["blind", "far"]
    far = read["models"][1]
    last = far["loss_by_position"]["buckets"][-1]
    assert (last["first"], last["last"], last["tokens"]) == (513, 1024, 6 * 512)
    assert set(last["loss"]) == {"mean", "low", "high", "clusters"}
    assert far["context_gain"]["beats_best_truncation"] == "yes"
    assert read["models"][0]["context_gain"]["beats_best_truncation"] == "not shown"
    [pair] = read["paired"]
    assert (pair["first"], pair["second"]) == ("blind", "far")
    assert len(pair["buckets"]) == len(far["loss_by_position"]["buckets"])
    markdown = files[1].read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| 513-1,024"))
    assert f"{last['loss']['mean']:.3f} ±" in row
    assert any(line.startswith("| beyond native") for line in markdown.splitlines())
    assert all(sentence in markdown for sentence in read["verdict"])


def test_verdict_says_what_the_numbers_support(copying):
    text = "\n".join(verdict(copying))
    far, blind = copying.models[1], copying.models[0]
    assert f"Beyond 128 tokens the loss of far falls from {far.position.reference.loss.mean:.3f}" in text
    assert "the loss of blind goes from 4.159" in text
    assert "the loss of far is lower than that of blind: -" in text
    assert "Inside the first 128 tokens far and blind differ by +0.000 ± 0.000" in text
    assert "far, last 64 tokens: the full context of 1,024 beats its own best truncation" in text
    assert "blind, last 64 tokens: the full context of 1,024 is not shown to differ from" in text
    assert "the content of the far prefix is used" in text
    assert far.position.beyond_change.direction == -1
    assert blind.position.beyond_change.direction == 0


def test_verdict_compares_with_the_best_truncation_of_any_model(tmp_path):
    """A model that reads nothing must lose against another one's truncation."""
    windows = take_windows(periodic_corpus(6, size=2000, period=40), 1024, 6, seed=0)
    evaluation = evaluate(tmp_path, Recorder({"near": CopyModel(40), "blind": CopyModel(10**6)}), windows)
    rival = [s for s in verdict(evaluation) if s.startswith("blind, last") and "any model" in s]
    assert len(rival) == 1
    assert "is worse than the best truncation of any model here (near, " in rival[0]


def test_verdict_concludes_nothing_from_one_window(tmp_path):
    windows = take_windows(random_corpus([400]), 256, 1, seed=0)
    evaluation = evaluate(tmp_path, Recorder({"a": tiny_llama(0), "b": tiny_llama(1)}), windows)
    text = "\n".join(verdict(evaluation))
    assert "nothing can be concluded" in text
    for claim in ("rises", "falls", "lower than", "higher than", "beats", "worse"):
        assert claim not in text
    write_report(evaluation, tmp_path / "out")
    assert len(write_plots(evaluation, tmp_path / "out")) == 2


def test_plots_are_png_files(tmp_path, copying):
    files = write_plots(copying, tmp_path / "plots")
    assert [file.name for file in files] == ["loss_by_position.png", "context_gain.png", "power_law.png"]
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG")
        assert file.stat().st_size > 5000


def test_extrapolation_beyond_a_models_own_window(tmp_path):
    """A model that was trained to 512: what lies beyond is said against the second half of that, not of the native."""
    windows = take_windows(periodic_corpus(6, size=2000, period=700), 1024, 6, seed=0)
    trained = CopyModel(700)
    trained.config.max_position_embeddings = 512
    recorder = Recorder({"far": trained})
    evaluation = evaluate(tmp_path, recorder, windows, context_control=False, allow_beyond=True)
    content, _ = write_report(evaluation, tmp_path)
    (model,) = content["models"]
    nll = evaluation.models[0].position.nll
    assert model["window"] == 512
    assert model["extrapolation"]["mean"] == pytest.approx(
        float(nll[:, 512:].mean() - nll[:, 256:512].mean()), rel=1e-4
    )
    start = "Extrapolation: beyond its own window of 512 tokens the loss of far falls"
    assert any(sentence.startswith(start) for sentence in verdict(evaluation))
    assert [entry["tokens"] for entry in model["loss_by_position"]["window_means"]][-1] == 1024
    assert "Mean loss of the first so many tokens" in (tmp_path / "report.md").read_text()
