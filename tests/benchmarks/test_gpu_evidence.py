"""The studies on a GPU run small on a CPU: a piece stops by itself, goes on, is measured, and the page says no more."""

import json
import sys
from pathlib import Path

import pytest
import zstandard

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "benchmarks" / "paper"
STEP = 262_144 // 128  # tokens of a step with --tiny 128
STEPS = 20


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """Scripts of a folder import each other by name, and recipes name files of the repository."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(PAPER))
    monkeypatch.chdir(ROOT)
    yield
    for name in set(sys.modules) - before:
        if str(PAPER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def texts(books, tmp_path):
    """Books, manuals and code as the studies take them, of 40 pieces of real books each."""
    text = " ".join(json.loads(line)["text"] for line in books.read_text().splitlines())
    for number, source in enumerate(("books", "manuals", "code")):
        rows = [{"text": text[700 * n + 100 * number :][:2500]} for n in range(40)]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{source}.jsonl.zst").write_bytes(zstandard.compress(lines.encode()))
    return tmp_path


def test_pieces_go_on_are_measured_and_reported(texts, tiny_model_dir, tmp_path, monkeypatch, capsys):
    import gpu
    import report_gpu

    common = ["--work", str(tmp_path / "work"), "--model", tiny_model_dir, "--results", str(tmp_path / "results")]
    common += ["--tiny", "128"]
    whole = [*common, "--tokens", str(STEPS * STEP + 5)]

    def result(name):
        return json.loads((tmp_path / "results" / f"paper_gpu_{name}.json").read_text())

    assert gpu.main(["prepare", str(texts), *common]) == 0

    # a piece whose time is over at once does a step, saves and says what it did
    assert gpu.main(["arm", "abf", "--minutes", "0", *whole]) == 0
    cut = result("abf")
    done = cut["pieces"][0]["last_step"]
    assert 1 <= done < STEPS
    assert cut["tokens"] == done * STEP < cut["planned_tokens"] == STEPS * STEP
    assert len(cut["train_loss"]) == done
    assert cut["measured"] is None

    # the same command goes on where it was, to the end, and then has nothing to do
    assert gpu.main(["arm", "abf", "--minutes", "9", *whole]) == 0
    assert gpu.main(["arm", "abf", "--minutes", "9", *whole]) == 0
    trained = result("abf")
    assert [(p["first_step"], p["last_step"]) for p in trained["pieces"]] == [(0, done), (done, STEPS)]
    assert trained["tokens"] == sum(p["tokens"] for p in trained["pieces"]) == STEPS * STEP
    assert len(trained["train_loss"]) == STEPS
    assert trained["train_loss"][:done] == cut["train_loss"]
    piece = trained["pieces"][1]
    assert piece["device"] == "CPU"
    assert set(piece["versions"]) == {"lit-long", "torch", "lightning", "transformers"}
    assert piece["command"] == (
        f"python benchmarks/paper/gpu.py arm abf --minutes 9 --tokens {STEPS * STEP} --tiny 128"
    )
    assert piece["seconds"] > 0 < piece["tokens_per_second"]

    # another budget would be another schedule of the learning rate
    capsys.readouterr()
    assert gpu.main(["arm", "abf", *common, "--tokens", str(2 * STEPS * STEP)]) == 2
    assert "abf was begun with" in capsys.readouterr().err

    assert gpu.main(["measure", "abf", "--windows", "3", "--needles", "1", *whole]) == 0
    measured = result("abf")["measured"]
    assert measured["tokens"] == STEPS * STEP
    assert {"full_minus_base_best", "full_minus_own_best"} <= measured["arms"]["abf"]["all"].keys()
    assert measured["arms"]["base"]["all"]["minus_base"]["mean"] == 0
    assert measured["arms"]["abf"]["all"]["minus_base"]["mean"] < 0  # it has learned something
    assert set(measured["arms"]["abf"]["books"]["contexts"]) == {"64", "128", "256"}
    assert measured["needles"]["abf"]["256"]["asked"] == 5

    # whatever comes next: here in this process, to save the start of three
    monkeypatch.setattr(gpu, "_again", lambda args, *words: gpu.main([*words, *few]))
    few = [*common, "--tokens", str(5 * STEP)]
    assert gpu.main(["next", "switch_40", "--minutes", "60", "--windows", "3", *few]) == 0
    curriculum = result("switch_40")
    assert curriculum["tokens"] == curriculum["measured"]["tokens"] == 5 * STEP
    lengths = [row["sequence_length"] for row in _metrics(tmp_path / "work" / "gpu_switch_40")]
    assert lengths == [32, 32, 256, 256, 256]
    assert curriculum["measured"]["arms"].keys() == {"switch_40"}
    assert 0 < curriculum["exact_flops"] < curriculum["formula_flops"] * 100

    # an arm of another machine: the same windows, a tenth of a nat worse
    other = json.loads(json.dumps(result("abf")).replace('"abf"', '"rope"'))
    for source in other["measured"]["windows"].values():
        source["loss"] = [loss + 0.1 for loss in source["loss"]]
    (tmp_path / "results" / "paper_gpu_rope.json").write_text(json.dumps(other))
    text = "\n".join(report_gpu.gpu(tmp_path / "results"))
    assert "A trial with all lengths divided, no evidence: ABF, RoPE, switch at 40 %." in text
    assert "Minus ABF, on the same tokens: RoPE +0.100 [+0.100, +0.100]." in text
    assert f"| ABF | {STEPS * STEP:,} | {measured['arms']['abf']['books']['loss']['mean']:.3f} |" in text
    assert "| PI | not run | not run | not run | not run | not run | not run |" in text
    assert f"| switch at 40 % | {5 * STEP:,} | {curriculum['formula_flops']:.3e} | not run |" in text
    report_gpu.plot_gpu(tmp_path / "results", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def _metrics(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "sequence_length" in row]


def test_the_page_says_what_the_results_say_and_nothing_where_there_is_none(tmp_path):
    import report_gpu
    from report_tables import RESULTS

    assert "\n".join(report_gpu.gpu(RESULTS)) in (ROOT / "docs" / "evidence.md").read_text()
    empty = report_gpu.gpu(tmp_path)
    assert "Nothing of this has been run: no GPU was at hand." in empty
    rows = [line for line in empty if line.startswith("| ") and line.split(" | ")[0][2:] in report_gpu.NAMES.values()]
    assert len(rows) == 4 + 4 + 4 + 4 + 4  # losses, claim and making of positions; losses and making of curricula
    for row in rows:
        assert {cell for cell in row.strip("| ").split(" | ")[1:] if cell} == {"not run"}, row


def test_recipes_hold_what_the_arms_say():
    import gpu_arms
    import yaml

    for study, file in (("positions", ROOT / "recipes" / "smollm2_135m_32k.yaml"), ("curriculum", gpu_arms.SCRATCH)):
        recipe = yaml.safe_load(file.read_text())
        assert recipe["model"]["context_length"] == gpu_arms.LENGTH
        assert recipe["data"]["init_args"]["tokens_per_step"] == gpu_arms.TOKENS_PER_STEP
        assert recipe["trainer"]["max_steps"] * gpu_arms.TOKENS_PER_STEP == gpu_arms.TOKENS[study]
        assert recipe["trainer"]["precision"] == "bf16-mixed"


def test_the_model_from_scratch_is_of_the_size_that_is_said():
    import gpu_arms
    import torch
    import yaml
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = yaml.safe_load(gpu_arms.SCRATCH.read_text())["model"]["model_config"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 64


def test_a_folder_goes_into_parts_and_comes_back(tmp_path):
    import random

    import parts

    folder, noise = tmp_path / "folder", random.Random(0).randbytes(3_000_000)
    (folder / "inside").mkdir(parents=True)
    (tmp_path / "elsewhere").write_bytes(noise)
    (folder / "inside" / "noise").symlink_to(tmp_path / "elsewhere")
    (folder / "small").write_text("text")
    parts.main(["pack", str(folder), str(tmp_path / "parts"), "--mib", "1"])
    files = sorted((tmp_path / "parts").iterdir())
    assert [file.name for file in files] == ["00", "01", "02"]
    assert max(file.stat().st_size for file in files) == 1 << 20
    with pytest.raises(SystemExit, match="is not empty"):
        parts.main(["pack", str(folder), str(tmp_path / "parts")])
    parts.main(["unpack", str(tmp_path / "parts"), str(tmp_path / "again")])
    assert (tmp_path / "again" / "inside" / "noise").read_bytes() == noise
    assert (tmp_path / "again" / "small").read_text() == "text"
    for missing in files:
        data = missing.read_bytes()
        missing.unlink()
        with pytest.raises(SystemExit, match="missing or damaged"):
            parts.main(["unpack", str(tmp_path / "parts"), str(tmp_path / "bad")])
        missing.write_bytes(data)
