"""``lit-long fit`` and ``check`` on two processes that Lightning starts by itself, as a user would run them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lit_long.entry import main
from tests.cli.test_fit import ROOT, recipe  # noqa: F401 - a fixture

SCRIPT = Path(sys.executable).with_name("lit-long")
TWO = ["--trainer.strategy", "context_parallel", "--trainer.devices", "2"]


def run(*arguments):
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.skipif(not SCRIPT.exists(), reason="the package is not installed as a command here")
def test_trains_and_goes_on(recipe, tmp_path):  # noqa: F811
    first = run("fit", *recipe, *TWO, "--trainer.max_steps", "2")
    assert first.returncode == 0, first.stderr
    folders = sorted(p for p in tmp_path.rglob("*.ckpt") if p.is_dir())
    assert folders, "no sharded checkpoint"
    second = run("fit", *recipe, *TWO, "--trainer.max_steps", "3", "--ckpt_path", "last")
    assert second.returncode == 0, second.stderr
    assert "Restored all states" in second.stderr
    (metrics,) = tmp_path.rglob("metrics.jsonl")
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [0, 1, 2]


@pytest.mark.skipif(not SCRIPT.exists(), reason="the package is not installed as a command here")
def test_check_says_whether_the_mesh_is_right(recipe):  # noqa: F811
    done = run("check", *recipe, "--json", "trainer.strategy=context_parallel", "trainer.devices=2")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {check["name"]: check for check in json.loads(done.stdout[done.stdout.index("[\n") :])}
    assert checks["parity"]["passed"]
    assert "1 x 2 (data x context)" in checks["parity"]["detail"]
    assert done.stdout.count('"parity"') == 1  # one process speaks


def test_the_overlay_is_a_strategy(capsys):
    overlay = ROOT / "recipes/cluster/context_parallel.yaml"
    assert (
        main(["fit", "--config", str(ROOT / "recipes/quickstart.yaml"), "--config", str(overlay), "--print_config"])
        == 0
    )
    strategy = yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"]
    assert strategy["class_path"] == "lit_long.parallel.ContextParallelStrategy"
    assert strategy["init_args"]["context_parallel_size"] == 8


def test_a_size_that_does_not_fit(recipe):  # noqa: F811
    from lit_long.errors import UserError
    from lit_long.parallel.mesh import make_meshes

    with pytest.raises(UserError, match="3 x context_parallel_size 2 are not the 4 processes"):
        make_meshes("cpu", 4, data_parallel=3, context=2, replicate=1)
    with pytest.raises(UserError, match="replicate_size is 3; it must divide data_parallel_size 4"):
        make_meshes("cpu", 4, data_parallel=4, context=1, replicate=3)


@pytest.mark.skipif(not SCRIPT.exists(), reason="the package is not installed as a command here")
def test_prediction_stands_beside_what_was_measured(recipe, tmp_path):  # noqa: F811
    """In a process of its own: only there does memory grow by this run alone."""
    watch = {
        "trainer": {"callbacks": [{"class_path": "lit_long.callbacks.PlanReport", "init_args": {"device": "cpu"}}]}
    }
    (tmp_path / "watch.yaml").write_text(yaml.safe_dump(watch))
    done = run("fit", *recipe, "--config", str(tmp_path / "watch.yaml"), "--trainer.max_steps", "3")
    assert done.returncode == 0, done.stderr
    memory, time = (line for line in (done.stdout + done.stderr).splitlines() if line.startswith("plan: "))
    predicted, measured = (float(word) for word in re.findall(r"([\d.]+) GB", memory))
    assert 0 < predicted < measured
    expected, taken = (float(word) for word in re.findall(r"([\d.e+-]+) s ", time))
    assert expected > 0
    assert taken > 0
