"""Publishing: one commit, exact bytes, nobody's change undone, and a re-run that finishes the job."""

import json
import shutil

import pytest
from release_folder import contents, edit_json, remote_contents

from lit_long.errors import UserError
from lit_long_hub import push_release

REPO = "acme/tiny"


def push(folder, hub, **options):
    return push_release(folder, REPO, endpoint=hub.url, token=options.pop("token", "hf_writer"), **options)


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """Waiting between attempts is not what is tested."""
    import time

    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_a_release_is_one_private_commit_with_the_same_bytes(hub, release):
    done = push(release, hub, tag="v1.0")
    repo = hub.store.repos["models", REPO]
    assert repo.private
    assert done.private
    assert remote_contents(hub, REPO, "v1.0") == contents(release)
    assert len(repo.commits) == 2
    assert repo.tags["v1.0"] == done.commit == repo.branches["main"]
    assert set(done.uploaded) == set(contents(release))
    assert not done.deleted
    assert not done.kept


def test_pushing_again_changes_nothing(hub, release):
    first = push(release, hub, tag="v1.0")
    second = push(release, hub, tag="v1.0")
    assert second.commit == first.commit
    assert not second.uploaded
    assert len(hub.seen("POST", "/commit/")) == 1


def test_a_second_release_replaces_the_first_whole(hub, first_release, second_release):
    push(first_release, hub, tag="v1")
    done = push(second_release, hub, tag="v2")
    assert remote_contents(hub, REPO, "main") == contents(second_release)
    assert remote_contents(hub, REPO, "v1") == contents(first_release)
    assert any(name.startswith("model-") for name in done.deleted)


def test_public_only_when_asked_and_as_the_last_step(hub, release):
    assert not push(release, hub, public=True, tag="v1").private
    assert not hub.store.repos["models", REPO].private
    methods = [path for method, path in hub.requests if method in ("PUT", "POST")]
    assert methods[-1].endswith("/settings")
    with pytest.raises(UserError, match="is public"):
        push(release, hub)


def test_somebody_elses_change_is_not_undone(hub, release, second_release, api):
    push(release, hub)
    api.upload_file(path_or_fileobj=b"hello", path_in_repo="NEWS.md", repo_id=REPO)
    head = hub.store.repos["models", REPO].branches["main"]
    with pytest.raises(UserError, match=r"not lit-long's.*--replace " + head):
        push(second_release, hub)
    assert hub.store.repos["models", REPO].branches["main"] == head
    done = push(second_release, hub, replace=head)
    assert done.kept == ["NEWS.md"]
    assert remote_contents(hub, REPO) == contents(second_release) | {"NEWS.md": b"hello"}


def test_a_commit_that_comes_between_is_not_overwritten(hub, release, monkeypatch):
    from huggingface_hub import HfApi

    push(release, hub)
    repo = hub.store.repos["models", REPO]
    edit_json(release / "generation_config.json", top_p=0.5)
    edit_json(release / "verification.json", files={"config.json": _entry(release / "config.json")})
    real = HfApi.preupload_lfs_files

    def meanwhile(self, *args, **kwargs):
        if repo.head().title != "between":
            repo.commit("between", repo.head().tree, author="somebody")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", meanwhile)
    with pytest.raises(UserError, match="changed by somebody else"):
        push(release, hub)
    assert repo.head().title == "between"


def _entry(path):
    from lit_long_hub.remote.tree import content_hashes

    return {"size": path.stat().st_size, "sha256": content_hashes(path)[1]}


def test_a_tag_is_never_moved(hub, release, second_release):
    push(release, hub, tag="v1")
    with pytest.raises(UserError, match="already has a tag 'v1'"):
        push(second_release, hub, tag="v1")
    assert remote_contents(hub, REPO) == contents(release)


@pytest.mark.parametrize(
    "fault", [{"status": 500}, {"status": 503}, {"status": 429}, {"kind": "drop"}, {"kind": "drop_after"}]
)
@pytest.mark.parametrize("where", [("POST", "/commit/"), ("POST", "/preupload/"), ("PUT", "/lfs/"), ("POST", "/tag/")])
def test_a_fault_leaves_the_old_or_the_new_release(hub, first_release, second_release, where, fault):
    push(first_release, hub, tag="v1")
    old = contents(first_release)
    method, path = where
    hub.fail(method, path, **fault)
    try:
        push(second_release, hub, tag="v2")
    except UserError:
        assert remote_contents(hub, REPO) in (old, contents(second_release))
        push(second_release, hub, tag="v2")
    assert remote_contents(hub, REPO, "v2") == contents(second_release) == remote_contents(hub, REPO)
    assert len(hub.store.repos["models", REPO].commits) == 3  # the initial one, v1 and v2, none twice


@pytest.mark.parametrize("where", ["/commit/", "/preupload/", "/lfs/objects/batch"])
def test_an_outage_that_lasts_leaves_the_old_release(hub, first_release, second_release, where):
    push(first_release, hub)
    hub.fail("POST", where, status=503, times=100)
    with pytest.raises(UserError, match="error of its own"):
        push(second_release, hub)
    assert remote_contents(hub, REPO) == contents(first_release)
    hub.faults.clear()
    push(second_release, hub)
    assert remote_contents(hub, REPO) == contents(second_release)


def test_what_was_uploaded_is_not_uploaded_again(hub, second_release):
    hub.fail("POST", "/commit/", status=503, times=100)
    with pytest.raises(UserError):
        push(second_release, hub)
    sent = len(hub.seen("PUT", "/lfs/"))
    hub.faults.clear()
    push(second_release, hub)
    assert sent > 1
    assert len(hub.seen("PUT", "/lfs/")) == sent


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("hf_wrong", "does not accept the token"),
        ("hf_reader", "may not do this"),
        ("hf_stranger", "rights|may not do this"),
    ],
)
def test_who_may_not_is_told_so(hub, release, token, message):
    with pytest.raises(UserError, match=message) as caught:
        push(release, hub, token=token)
    assert token not in str(caught.value)
    assert ("models", REPO) not in hub.store.repos


def test_bad_front_matter_is_the_hubs_last_word(hub, release):
    card = release / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nbogus: 1\n", 1))
    with pytest.raises(UserError, match='"bogus" is not allowed'):
        push(release, hub)
    assert not remote_contents(hub, REPO)


def test_a_file_changed_after_the_proof_is_not_published(hub, release):
    shard = sorted(release.glob("model-*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=f"{shard.name} is not the file that was proved"):
        push(release, hub)
    assert not remote_contents(hub, REPO)


def _refusals():
    def pickle(folder):
        (folder / "extra.pkl").write_bytes(b"x")

    def shard(folder):
        sorted(folder.glob("model-*.safetensors"))[0].unlink()

    def cut(folder):
        path = sorted(folder.glob("model-*.safetensors"))[0]
        path.write_bytes(path.read_bytes()[:-5])

    def theta(folder):
        edit_json(folder / "config.json", rope_theta=10_000.0)

    def unproved(folder):
        edit_json(folder / "verification.json", passed=False)

    def path(folder):
        card = folder / "README.md"
        card.write_text(card.read_text() + "\nTrained from /home/somebody/base.\n")

    def token(folder):
        edit_json(folder / "lit_long.json", note="hf_" + "a" * 34)

    def language(folder):
        card = folder / "README.md"
        card.write_text(card.read_text().replace("---\n", "---\nlanguage: [noinfo]\n", 1))

    def length(folder):
        edit_json(folder / "tokenizer_config.json", model_max_length=64)

    def positions(folder, **changes):
        rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
        rope = {key: value for key, value in (rope | changes).items() if value is not None}
        edit_json(folder / "config.json", rope_parameters=rope)

    def no_theta(folder):
        positions(folder, rope_theta=None)

    def no_original_length(folder):
        positions(folder, rope_type="yarn", factor=4.0)

    def other_yarn(folder):
        positions(folder, rope_type="yarn", factor=4.0, original_max_position_embeddings=100)

    def no_positions(folder):
        edit_json(folder / "config.json", rope_parameters=None)

    def new_tokenizer(folder):
        edit_json(folder / "tokenizer_config.json", tokenizer_class="TokenizersBackend")

    def stray(folder):
        shutil.copy(sorted(folder.glob("model-*.safetensors"))[0], folder / "model-00001-of-00099.safetensors")

    def cluster(folder):
        edit_json(folder / "lit_long.json", base="/fsx/customer/base")

    def placeholder(folder):
        card = folder / "README.md"
        card.write_text(card.read_text() + "\n[More Information Needed]\n")

    return [
        (pickle, "extra.pkl: files of this kind"),
        (shard, "is missing"),
        (cut, "was cut off"),
        (theta, "say other positions"),
        (unproved, "not the model that was trained"),
        (path, "names a place on a machine"),
        (token, "access token"),
        (language, "no ISO 639 code"),
        (length, "model_max_length is 64"),
        (placeholder, "placeholder"),
        (no_theta, "lack rope_theta, readers would take 10,000"),
        (no_original_length, "yarn needs original_max_position_embeddings"),
        (other_yarn, "yarn implies a context of 400"),
        (no_positions, "rope_parameters are missing"),
        (new_tokenizer, "TokenizersBackend does not load in transformers 4"),
        (stray, "belongs to no index"),
        (cluster, "names a place on a machine"),
    ]


@pytest.mark.parametrize(("harm", "message"), _refusals(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_folder_that_is_not_right_is_refused_before_anything_is_sent(hub, release, harm, message):
    harm(release)
    with pytest.raises(UserError, match=message):
        push(release, hub)
    assert not hub.requests


def test_llama_duties(hub, release):
    card = release / "README.md"
    card.write_text(card.read_text().replace("license: apache-2.0", "license: llama3.1"))
    with pytest.raises(UserError, match=r"(?s)NOTICE.*begins with Llama.*Built with Llama"):
        push(release, hub)
    card.write_text(card.read_text() + "\nBuilt with Llama.\n")
    (release / "NOTICE").write_text(
        "Llama 3.1 is licensed under the Llama 3.1 Community License, Copyright © Meta Platforms, Inc. All Rights "
        "Reserved.\n"
    )
    push_release(release, "acme/Llama-tiny-long", endpoint=hub.url, token="hf_writer")


@pytest.mark.parametrize("name", ["noowner", "a/b/c", "acme/..", "acme/bad name"])
def test_bad_repository_ids(release, name):
    with pytest.raises(UserError, match="ORGANISATION/NAME"):
        push_release(release, name)


def test_proof_names_its_files(release):
    named = json.loads((release / "verification.json").read_text())["files"]
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= named.keys()


def test_own_code_is_published_and_stays_away_unless_asked_for(hub, tmp_path, small_tokenizer):
    from release_folder import export

    from lit_long_hub import pull_release
    from lit_long_hub.context_facts import context_facts, facts_text

    folder = export(tmp_path / "xpos", small_tokenizer, method="xpos_abf")
    push(folder, hub)
    plain = pull_release(REPO, tmp_path / "plain", endpoint=hub.url, token="hf_writer")
    assert set(plain.refused) == {"configuration_xpos_llama.py", "modeling_xpos_llama.py"}
    text = facts_text(plain.folder, context_facts(plain.folder))
    assert "trust_remote_code=True" in text
    assert "vllm" not in text
    whole = pull_release(REPO, tmp_path / "whole", allow=("*.py",), endpoint=hub.url, token="hf_writer")
    assert contents(whole.folder) == contents(folder)
