"""Fetching: the same bytes or nothing, no code, no way out of the folder, and a re-run that finishes the job."""

from pathlib import Path

import pytest
from hub_store import Entry
from release_folder import contents, remote_contents

from lit_long.errors import UserError
from lit_long_hub import pull_release, push_release
from lit_long_hub.context_facts import context_facts, facts_text
from lit_long_hub.remote.publish import MARK

REPO = "acme/tiny"


def pull(hub, folder, repository=REPO, **options):
    return pull_release(repository, folder, endpoint=hub.url, token=options.pop("token", "hf_writer"), **options)


@pytest.fixture
def published(hub, first_release):
    """The first release, put into the Hub without a client."""
    repo = hub.store.create("models", REPO, private=True)
    repo.commit("first\n" + MARK, hub.store.tree_of(contents(first_release)), author="acme")
    repo.tags["v1"] = repo.branches["main"]
    return repo


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_a_release_arrives_with_the_same_bytes_and_facts(hub, published, first_release, tmp_path):
    done = pull(hub, tmp_path / "here")
    assert contents(tmp_path / "here") == contents(first_release)
    assert done.commit == published.branches["main"]
    assert set(done.fetched) == set(done.files)
    facts = context_facts(done.folder)
    assert (facts.context_length, facts.native_length, facts.proved) == (512, 64, True)
    assert "512 tokens (its base model: 64)" in facts_text(done.folder, facts)
    assert not list((tmp_path / "here").glob(".lit-long-pull/*"))


def test_it_loads_and_is_the_same_model(hub, published, first_release, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    pull(hub, tmp_path / "here")
    ids = torch.arange(20)[None]
    here, there = (AutoModelForCausalLM.from_pretrained(f) for f in (tmp_path / "here", first_release))
    assert torch.equal(here(ids).logits, there(ids).logits)


def test_pulling_again_fetches_nothing(hub, published, tmp_path):
    pull(hub, tmp_path / "here")
    before = len(hub.seen("GET", "/resolve/"))
    assert not pull(hub, tmp_path / "here").fetched
    assert len(hub.seen("GET", "/resolve/")) == before


def test_a_revision_is_a_revision(hub, published, first_release, second_release, tmp_path):
    push_release(second_release, REPO, tag="v2", endpoint=hub.url, token="hf_writer")
    pull(hub, tmp_path / "old", f"hf://{REPO}@v1")
    assert contents(tmp_path / "old") == contents(first_release)
    pull(hub, tmp_path / "old", f"{REPO}@v2")
    assert contents(tmp_path / "old") == contents(second_release)
    with pytest.raises(UserError, match="no such branch, tag or commit"):
        pull(hub, tmp_path / "no", f"{REPO}@v3")


@pytest.mark.parametrize("kind", ["truncate", "drop"])
def test_a_cut_off_download_is_taken_up(hub, published, first_release, tmp_path, kind):
    hub.fail("GET", "/resolve/.*safetensors$", kind=kind)
    try:
        pull(hub, tmp_path / "here")
    except UserError:
        assert not (tmp_path / "here/config.json").exists()
        pull(hub, tmp_path / "here")
    assert contents(tmp_path / "here") == contents(first_release)


def test_a_corrupted_download_is_fetched_again(hub, published, first_release, tmp_path):
    hub.fail("GET", "/resolve/.*safetensors$", kind="corrupt")
    pull(hub, tmp_path / "here")
    assert contents(tmp_path / "here") == contents(first_release)


def test_corruption_that_stays_is_an_error_and_leaves_the_old_release(
    hub, published, first_release, second_release, tmp_path
):
    pull(hub, tmp_path / "here")
    push_release(second_release, REPO, endpoint=hub.url, token="hf_writer")
    hub.fail("GET", "/resolve/.*safetensors$", kind="corrupt", times=100)
    with pytest.raises(UserError, match="another checksum"):
        pull(hub, tmp_path / "here")
    assert contents(tmp_path / "here") == contents(first_release)
    hub.faults.clear()
    pull(hub, tmp_path / "here")
    assert contents(tmp_path / "here") == contents(second_release)


def test_finished_files_are_not_fetched_again(hub, published, first_release, tmp_path):
    largest = max(published.head().tree.items(), key=lambda item: item[1].size)[0]
    hub.fail("GET", f"/resolve/.*{largest}$", status=404, times=100)
    with pytest.raises(UserError):
        pull(hub, tmp_path / "here")
    hub.faults.clear()
    hub.requests.clear()
    pull(hub, tmp_path / "here")
    assert [path.rpartition("/")[2] for path in hub.seen("GET", "/resolve/")] == [largest]
    assert contents(tmp_path / "here") == contents(first_release)


@pytest.mark.parametrize("earlier", [False, True])
def test_cut_off_while_files_are_moved_into_place(
    hub, published, first_release, second_release, tmp_path, monkeypatch, earlier
):
    if earlier:
        pull(hub, tmp_path / "here")
        push_release(second_release, REPO, endpoint=hub.url, token="hf_writer")
    real, moved = Path.replace, []

    def cut_off(self, target):
        if ".lit-long-pull" in str(self) and self.suffix == ".safetensors":
            if moved:
                raise KeyboardInterrupt
            moved.append(self)
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", cut_off)
        with pytest.raises(KeyboardInterrupt):
            pull(hub, tmp_path / "here")
    assert not (tmp_path / "here/config.json").exists()
    pull(hub, tmp_path / "here")
    assert contents(tmp_path / "here") == contents(second_release if earlier else first_release)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_outage_is_a_message_and_a_rerun(hub, published, first_release, tmp_path, status):
    hub.fail("ANY", "/resolve/.*safetensors$", status=status, times=1000)
    with pytest.raises(UserError, match=r"fetching acme/tiny: .*again"):
        pull(hub, tmp_path / "here")
    assert not (tmp_path / "here/config.json").exists()
    hub.faults.clear()
    pull(hub, tmp_path / "here")
    assert contents(tmp_path / "here") == contents(first_release)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../evil.json", "leaves the folder"),
        ("a/../../evil.json", "leaves the folder"),
        ("/etc/evil.json", "absolute path"),
        ("C:\\evil.json", "must not"),
        (".git/hooks/x.txt", "tools use"),
        (".lit-long-pull.json", "tools use"),
        ("aux.json", "treat specially"),
        ("Config.json", "one file on many systems"),
    ],
)
def test_paths_that_leave_the_folder_are_refused(hub, published, tmp_path, path, message):
    published.commit("evil", published.head().tree | {path: Entry(1, b"x")}, author="mallory")
    with pytest.raises(UserError, match=message):
        pull(hub, tmp_path / "here")
    assert not (tmp_path / "here").exists()
    assert not (tmp_path / "evil.json").exists()


def test_code_and_pickles_stay_away_unless_asked_for(hub, published, tmp_path):
    evil = {"pytorch_model.bin": Entry(1, b"x"), "modeling_x.py": Entry(1, b"x"), "x.pkl": Entry(1, b"x")}
    published.commit("evil", published.head().tree | evil, author="mallory")
    done = pull(hub, tmp_path / "here")
    assert done.refused.keys() == evil.keys()
    assert not evil.keys() & contents(tmp_path / "here").keys()
    done = pull(hub, tmp_path / "there", allow=("*.py",))
    assert done.refused.keys() == evil.keys() - {"modeling_x.py"}


def test_folders_of_others_are_left_alone(hub, published, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        pull(hub, tmp_path / "mine")
    pull(hub, tmp_path / "here")
    push_release_copy(hub)
    with pytest.raises(UserError, match="was fetched from acme/tiny"):
        pull(hub, tmp_path / "here", "acme/copy")


def push_release_copy(hub):
    repo = hub.store.create("models", "acme/copy", private=True)
    repo.commit("copy", hub.store.repos["models", REPO].head().tree, author="acme")


def test_a_full_disk_is_said_before_and_during(hub, published, first_release, tmp_path, monkeypatch):
    import errno
    import shutil

    from huggingface_hub import HfApi

    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
        with pytest.raises(UserError, match="GB free"):
            pull(hub, tmp_path / "here")
    with monkeypatch.context() as patch:

        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(HfApi, "hf_hub_download", full)
        with pytest.raises(UserError, match="disk is full"):
            pull(hub, tmp_path / "here")
    pull(hub, tmp_path / "here")
    assert contents(tmp_path / "here") == contents(first_release)


def test_private_and_missing_repositories(hub, published, tmp_path):
    for token in ("hf_stranger", False):
        with pytest.raises(UserError, match="no such repository, or it is private"):
            pull(hub, tmp_path / "here", token=token)
    with pytest.raises(UserError, match=r"does not accept the token|no such repository"):
        pull(hub, tmp_path / "here", token="hf_wrong")


@pytest.mark.parametrize("text", ["", "noowner", "spaces/a/b", "a/b/c.json", "../x"])
def test_what_is_no_repository(text):
    with pytest.raises(UserError, match="ORGANISATION/NAME"):
        pull_release(text)


def test_the_remote_is_what_the_helper_says(hub, published, first_release):
    assert remote_contents(hub, REPO) == contents(first_release)
