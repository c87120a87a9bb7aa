"""The test Hub itself: huggingface_hub's unmodified client can do with it what it does with the real one."""

import pytest


def test_commit_tag_download_and_checksums(hub, api, tmp_path):
    from huggingface_hub import CommitOperationAdd

    api.create_repo("acme/one", private=True)
    big = tmp_path / "model.safetensors"
    big.write_bytes(b"x" * 100_000)
    operation = CommitOperationAdd("model.safetensors", str(big))
    api.preupload_lfs_files("acme/one", additions=[operation])
    big.unlink()
    commit = api.create_commit(
        "acme/one", [operation, CommitOperationAdd("config.json", b"{}")], commit_message="first"
    )
    api.create_tag("acme/one", tag="v1", revision=commit.oid)
    folder = api.snapshot_download("acme/one", revision="v1", local_dir=tmp_path / "down")
    assert (tmp_path / "down/model.safetensors").read_bytes() == b"x" * 100_000
    checked = api.verify_repo_checksums("acme/one", revision="v1", local_dir=folder)
    assert not checked.mismatches
    assert checked.checked_count == 3


def test_private_means_private(hub, api, other_api):
    from huggingface_hub.errors import RepositoryNotFoundError

    api.create_repo("acme/one", private=True)
    with pytest.raises(RepositoryNotFoundError):
        other_api.model_info("acme/one")
