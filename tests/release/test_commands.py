"""The commands as a user runs them: separate processes, over HTTP, killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from release_folder import contents, remote_contents

REPO = "acme/tiny"


def start(hub, *arguments, token="hf_writer", xet=False):
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    environment["HF_HUB_DISABLE_XET"] = "0" if xet else "1"
    environment["HF_TOKEN"] = token
    command = [sys.executable, "-m", "lit_long.entry", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def kill_when(process, happened):
    end = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_push_then_pull(hub, first_release, tmp_path):
    code, out, err = finish(start(hub, "push", first_release, "--repo-id", REPO, "--tag", "v1"))
    assert code == 0, err
    assert "(private)" in out
    assert f"lit-long pull {REPO}@v1" in out
    code, out, err = finish(start(hub, "pull", f"{REPO}@v1", "--output", tmp_path / "here"))
    assert code == 0, err
    assert "512 tokens (its base model: 64)" in out
    assert "--max-model-len 512" in out
    assert contents(tmp_path / "here") == contents(first_release)
    code, out, _ = finish(start(hub, "pull", f"{REPO}@v1", "--output", tmp_path / "here", "--json"))
    assert json.loads(out)["fetched"] == []
    assert "hf_writer" not in out + err


def test_a_killed_push_leaves_the_old_release_and_is_taken_up(hub, first_release, second_release):
    assert finish(start(hub, "push", first_release, "--repo-id", REPO))[0] == 0
    hub.fail("PUT", "/lfs/", kind="stall")
    process = start(hub, "push", second_release, "--repo-id", REPO)
    kill_when(process, lambda: any(fault.kind == "stall" and not fault.times for fault in hub.faults))
    assert remote_contents(hub, REPO) == contents(first_release)
    assert finish(start(hub, "push", second_release, "--repo-id", REPO))[0] == 0
    assert remote_contents(hub, REPO) == contents(second_release)


def test_a_killed_push_of_a_checkpoint_is_taken_up(hub, first_release, tmp_path):
    """It was converting and sending; what arrived is not sent again, and what it left on the disk is gone."""
    assert finish(start(hub, "push", first_release, "--repo-id", REPO))[0] == 0
    checkpoint, work = first_release.with_name("model.ckpt"), tmp_path / "work"
    arguments = ("push", checkpoint, "--repo-id", REPO, "--license", "apache-2.0", "--dtype", "bfloat16")
    arguments += ("--max-shard-size", "10KB", "--work-dir", work, "--tag", "v1")
    hub.requests.clear()
    hub.fail("PUT", "/lfs/", times=1)  # the first arrives
    hub.fail("PUT", "/lfs/", kind="stall", times=100)
    process = start(hub, *arguments)
    kill_when(process, lambda: len(hub.seen("PUT", "/lfs/")) == 2)
    assert len(list(work.glob("*.safetensors"))) == 1
    assert remote_contents(hub, REPO) == contents(first_release)
    arrived = hub.seen("PUT", "/lfs/")[0]
    hub.faults.clear()
    code, out, err = finish(start(hub, *arguments))
    assert code == 0, err
    assert "no logits" in out
    assert hub.seen("PUT", "/lfs/").count(arrived) == 1
    assert not work.exists()
    remote = remote_contents(hub, REPO, "v1")
    assert len([name for name in remote if name.endswith(".safetensors")]) == 6
    assert str(tmp_path).encode() not in b"".join(remote.values())


def test_a_push_killed_after_its_commit_is_taken_up(hub, first_release):
    hub.fail("POST", "/tag/", kind="stall")
    process = start(hub, "push", first_release, "--repo-id", REPO, "--tag", "v1")
    kill_when(process, lambda: any(fault.kind == "stall" and not fault.times for fault in hub.faults))
    repo = hub.store.repos["models", REPO]
    assert "v1" not in repo.tags
    assert finish(start(hub, "push", first_release, "--repo-id", REPO, "--tag", "v1"))[0] == 0
    assert len(repo.commits) == 2
    assert remote_contents(hub, REPO, "v1") == contents(first_release)


def test_a_killed_pull_loads_nowhere_and_is_taken_up(hub, first_release, tmp_path):
    from lit_long_hub.remote.publish import MARK

    repo = hub.store.create("models", REPO, private=True)
    repo.commit("first\n" + MARK, hub.store.tree_of(contents(first_release)), author="acme")
    hub.fail("GET", "/resolve/.*00005-of-00006.safetensors$", kind="stall")
    process = start(hub, "pull", REPO, "--output", tmp_path / "here")
    kill_when(process, lambda: any(fault.kind == "stall" and not fault.times for fault in hub.faults))
    assert not (tmp_path / "here/config.json").exists()
    code, _, err = finish(start(hub, "pull", REPO, "--output", tmp_path / "here"))
    assert code == 0, err
    assert contents(tmp_path / "here") == contents(first_release)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pull", "acme/nothing"), "no such repository"),
        (("push", "nowhere", "--repo-id", "acme/x"), "nowhere is no folder"),
        (("push", "tests", "--repo-id", "acme/x"), "has no config.json"),
        (("push", "tests", "--repo-id", "acme/x", "--dtype", "float16"), "--dtype belongs to a checkpoint"),
        (("push", "gone.ckpt", "--repo-id", "acme/x"), "No checkpoint at gone.ckpt"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_2(hub, arguments, message):
    code, out, err = finish(start(hub, *arguments))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not out


def test_the_real_hubs_own_storage(hub, first_release, tmp_path):
    """One round over xet, which the real Hub uses; the unmodified hf-xet keeps its chunks in a local folder."""
    hub.xet_folder = tmp_path / "xet"
    hub.xet_folder.mkdir()
    code, _, err = finish(start(hub, "push", first_release, "--repo-id", REPO, xet=True))
    assert code == 0, err
    assert not hub.seen("PUT", "/lfs/")
    code, _, err = finish(start(hub, "pull", REPO, "--output", tmp_path / "here", xet=True))
    assert code == 0, err
    assert contents(tmp_path / "here") == contents(first_release)
