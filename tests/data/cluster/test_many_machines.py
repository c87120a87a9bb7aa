"""prepare as datatrove tasks: the same corpus as the plain run, whoever does it and whatever is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_long.data.cleaning import CleanConfig
from lit_long.data.cluster import launch, prepare_executors
from lit_long.data.corpus import TokenCorpus
from lit_long.data.prepare import PrepareConfig, Source, finish, prepare
from lit_long.errors import UserError

ITEM = 8_000  # bytes: the four documents become four items
SCRIPT = """
import sys
from lit_long.data.cluster import launch, prepare_executors
from lit_long.data.prepare import PrepareConfig, Source
if __name__ == "__main__":
    tokenizer, books, output = sys.argv[1:]
    config = PrepareConfig(
        tokenizer=tokenizer, sources=(Source(path=books),), output=output, item_bytes=8_000, processes=1
    )
    launch(prepare_executors(config, kind="local", tasks=4, workers=1))
"""
# sbatch of a Slurm of one machine: it runs the tasks of the array one by one, then says the job's number
SBATCH = """#!{python}
import json, os, pathlib, re, subprocess, sys
home = pathlib.Path(os.environ["FAKE_SLURM"])
number = len(list(home.glob("*.json"))) + 1
text = pathlib.Path(sys.argv[-1]).read_text()
options = dict(re.findall(r"^#SBATCH --([\\w-]+)=(.*)$", text, re.M))
job = {{"arguments": sys.argv[1:-1], "options": options, "script": text, "codes": []}}
first, last = map(int, options["array"].split("%")[0].split("-"))
for task in range(first, last + 1):
    environment = os.environ | {{"SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "here"}}
    run = subprocess.run(["bash", "-c", text], env=environment, capture_output=True, text=True)
    job["codes"].append(run.returncode)
    job.setdefault("stderr", []).append(run.stderr[-2000:])
(home / f"{{number}}.json").write_text(json.dumps(job))
print("Submitted batch job", number)
"""


def config(books, tokenizer_dir, output, **more):
    return PrepareConfig(
        tokenizer=tokenizer_dir,
        sources=(Source(path=str(books)),),
        output=str(output),
        item_bytes=ITEM,
        processes=1,
        **more,
    )


@pytest.fixture(scope="module")
def plain(books, tokenizer_dir, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "c"
    prepare(config(books, tokenizer_dir, output))
    return TokenCorpus(output)


@pytest.mark.parametrize("tasks", [1, 3])
def test_local_tasks_make_the_same_corpus(tasks, plain, books, tokenizer_dir, tmp_path):
    own = config(books, tokenizer_dir, tmp_path / "c")
    seen = []
    launch(prepare_executors(own, kind="local", tasks=tasks, workers=2), lambda *done: seen.append(done))
    corpus = TokenCorpus(tmp_path / "c")
    assert (corpus.fingerprint, corpus.documents, corpus.tokens) == (plain.fingerprint, plain.documents, plain.tokens)
    assert seen == [("tokenise", i + 1, tasks) for i in range(tasks)] + [("finish", 1, 1)]
    assert finish(own).reused
    launch(prepare_executors(own, kind="local", tasks=tasks))  # all there: nothing happens
    assert TokenCorpus(tmp_path / "c").fingerprint == plain.fingerprint


@pytest.mark.slow
def test_a_killed_task_is_run_again(plain, books, tokenizer_dir, tmp_path):
    """The worker is killed as by the system when memory runs out: one message, and the same call ends the work."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    output = tmp_path / "c"
    command = [sys.executable, str(script), tokenizer_dir, str(books), str(output)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    log = Path(f"{output}.logs/tokenise/logs/task_00001.log")
    while not (log.is_file() and "Launching" in log.read_text()):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    for worker in workers_of(process.pid):
        os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode != 0
    assert "a worker process was killed, most likely because memory ran out" in errors
    assert not output.exists()
    assert subprocess.run(command, env=environment).returncode == 0
    assert TokenCorpus(output).fingerprint == plain.fingerprint


def workers_of(pid):
    """Processes that were forked to do tasks: the fork server's children."""

    def children(parent):
        return [
            int(stat.parent.name)
            for stat in Path("/proc").glob("[0-9]*/stat")
            if stat.read_text().rsplit(")", 1)[1].split()[1] == str(parent)
        ]

    return [grandchild for child in children(pid) for grandchild in children(child)]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The commands of a Slurm of one machine in PATH; returns the folder in which each job leaves what it was."""
    commands, jobs = tmp_path / "bin", tmp_path / "jobs"
    commands.mkdir()
    jobs.mkdir()
    tool = f"#!{sys.executable}\nfrom datatrove.tools.NAME import main\nmain()\n"
    for name, text in {
        "sbatch": SBATCH.format(python=sys.executable),
        "scontrol": "#!/bin/sh\necho localhost\n",
        "srun": '#!/bin/sh\nshift 3\nexec "$@"\n',
        "launch_pickled_pipeline": tool.replace("NAME", "launch_pickled_pipeline"),
        "merge_stats": tool.replace("NAME", "merge_stats"),
    }.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in sys.path if p))
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    return jobs


@pytest.mark.slow
def test_slurm_jobs_wait_for_each_other_and_make_the_same_corpus(plain, slurm, books, tokenizer_dir, tmp_path):
    """datatrove's own sbatch scripts, run by a stand-in for Slurm."""
    own = config(books, tokenizer_dir, tmp_path / "c")
    launch(prepare_executors(own, kind="slurm", tasks=2, time="01:00:00", partition="cpu", qos=None))

    jobs = [json.loads(file.read_text()) for file in sorted(slurm.glob("*.json"))]
    assert all(code == 0 for job in jobs for code in job["codes"]), jobs
    stages = [job for job in jobs if "launch_pickled_pipeline" in job["script"]]
    assert [job["options"]["job-name"] for job in stages] == ["lit-long-tokenise", "lit-long-finish"]
    assert (stages[0]["options"]["array"], stages[0]["options"]["partition"]) == ("0-1", "cpu")
    assert f"--dependency=afterok:{jobs.index(stages[0]) + 1}" in stages[1]["arguments"]
    assert TokenCorpus(tmp_path / "c").fingerprint == plain.fingerprint


@pytest.fixture(scope="module")
def doubled(books, tmp_path_factory):
    """The books with the first one a second time."""
    rows = [json.loads(line) for line in books.read_text().splitlines()]
    rows.insert(2, {"id": "again", "text": rows[0]["text"]})
    path = tmp_path_factory.mktemp("doubled") / "books.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_prepare_of_cleaned_sources(books, doubled, tokenizer_dir, tmp_path, plain):
    """With nothing to leave out the corpus is the plain one; else it is that of what stays, and says what went."""
    clean = CleanConfig(exact_duplicates=True)
    for name, source, left_out in (("same", books, {}), ("copies", doubled, {"exact_duplicates": 1})):
        one = config(source, tokenizer_dir, tmp_path / name, clean=clean)
        assert prepare(one).excluded == left_out
        corpus = TokenCorpus(tmp_path / name)
        assert corpus.fingerprint == plain.fingerprint
        assert corpus.info["cleaning"]["documents"] == 4 + len(left_out)
        assert len((tmp_path / name / "excluded.jsonl").read_text().splitlines()) == len(left_out)
        again = prepare(one)
        assert (again.reused, again.excluded) == (True, left_out)


def test_errors_of_steps_arrive_whole(tokenizer_dir, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "text": 3}\n')
    with pytest.raises(UserError, match=r"a.jsonl:1: no text in field 'text'"):
        launch(prepare_executors(config(path, tokenizer_dir, tmp_path / "c"), kind="local", tasks=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "kubernetes", "tasks": 1}, "executor 'kubernetes': give one of local, slurm, ray"),
        ({"kind": "local", "tasks": 0}, "tasks is 0"),
        ({"kind": "local", "tasks": 1, "partition": "x"}, "executor local: no option 'partition'; options: .*workers"),
        ({"kind": "slurm", "tasks": 1, "time": "1:00"}, "executor slurm: needs partition; give"),
    ],
)
def test_refuses_what_an_executor_cannot_do(options, message, books, tokenizer_dir, tmp_path):
    with pytest.raises(UserError, match=message):
        prepare_executors(config(books, tokenizer_dir, tmp_path / "c"), **options)


def test_command_line(doubled, tokenizer_dir, tmp_path, plain, capsys):
    """A YAML with cleaning, by tasks."""
    from lit_long.entry import main

    yaml = tmp_path / "d.yaml"
    yaml.write_text(
        f"{{tokenizer: {tokenizer_dir}, sources: [{{path: {doubled}}}], output: {tmp_path / 'c'}, item_bytes: {ITEM},"
        f" clean: {{exact_duplicates: true}}}}"
    )
    assert main(["prepare", "--config", str(yaml), "--executor", "local", "--tasks", "2"]) == 0
    out, err = capsys.readouterr()
    assert f"wrote: {tmp_path / 'c'}" in out
    assert "left out: 1 documents (exact_duplicates); see excluded.jsonl there" in out
    assert "clean-report: 1 of 1 tasks" in err
    assert "finish: 1 of 1 tasks" in err
    assert TokenCorpus(tmp_path / "c").fingerprint == plain.fingerprint
    assert main(["prepare", "--config", str(yaml)]) == 0
    assert "up to date" in capsys.readouterr().out
