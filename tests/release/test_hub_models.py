"""A released model as a starting point: ``hf://org/name@revision`` in a recipe, in evaluation, as a tokenizer."""

import pytest
import torch
from release_folder import contents

from lit_long import LongContextModule
from lit_long.errors import UserError
from lit_long.model.inference import load_for_inference
from lit_long.repository import model_at, parse_repository
from lit_long_hub.remote.publish import MARK


@pytest.fixture
def released(hub, first_release, second_release):
    """v1 and, at the head, other weights."""
    repo = hub.store.create("models", "acme/tiny", private=True)
    for tag, folder in (("v1", first_release), ("v2", second_release)):
        repo.commit(f"{tag}\n{MARK}", hub.store.tree_of(contents(folder)), author="acme")
        repo.tags[tag] = repo.branches["main"]
    return hub


@pytest.fixture
def recipe_of():
    def build(name, **options):
        module = LongContextModule(context_length=512, model=name, **options)
        module.configure_model()
        return module

    return build


def test_a_recipe_starts_from_the_revision_it_names(released, first_release, recipe_of):
    from safetensors.torch import load_file

    module = recipe_of("hf://acme/tiny@v1")
    assert (module.spec.model, module.spec.revision) == ("acme/tiny", "v1")
    weights = {key: value for path in first_release.glob("*.safetensors") for key, value in load_file(path).items()}
    live = module.model.state_dict()
    for name, value in weights.items():
        assert torch.equal(live[name], value), name


def test_evaluation_knows_the_native_length(released):
    loaded = load_for_inference("hf://acme/tiny@v1")
    assert loaded.native_length == 64
    assert loaded.config.max_position_embeddings == 512


def test_the_tokenizer_of_a_revision(released):
    from lit_long.data.tokenizer import load_tokenizer

    assert len(load_tokenizer("hf://acme/tiny@v1")) >= 258


def test_names():
    assert model_at("acme/tiny") == ("acme/tiny", None)
    assert model_at("runs/folder", "v1") == ("runs/folder", "v1")
    assert model_at("hf://acme/tiny") == ("acme/tiny", None)
    assert model_at("hf://acme/tiny@v1", "v1") == ("acme/tiny", "v1")
    assert parse_repository("datasets/acme/books@v2").kind == "dataset"
    with pytest.raises(UserError, match="is a dataset"):
        model_at("hf://datasets/acme/books")
    with pytest.raises(UserError, match="Keep one"):
        model_at("hf://acme/tiny@v1", "v2")
    with pytest.raises(UserError, match="ORGANISATION/NAME"):
        model_at("hf://tiny")
