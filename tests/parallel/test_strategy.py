"""Training on a mesh of ranks is training on one process: losses, gradient norms, weights, held-out loss."""

import pytest
import torch

from tests.parallel.parallel_runs import fit, fit_on_mesh, lines

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def straight(corpus_dir, tiny_model_dir, tmp_path_factory):
    """Runs on one process, made once for each set of options."""
    made = {}

    def run(**options):
        key = repr(sorted(options.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp("straight")
            made[key] = (*fit(corpus_dir, tiny_model_dir, folder, **options), folder)
        return made[key]

    return run


def same(corpus_dir, tiny_model_dir, folder, straight, mesh, own=None, **options):
    metrics, weights, reference = straight(**options)
    found_metrics, found = fit_on_mesh(corpus_dir, tiny_model_dir, folder, mesh=mesh, **options, **(own or {}))
    names = ("loss", "grad_norm", "tokens", "flops")
    expected, got = lines(reference, *names), lines(folder, *names)
    assert expected.keys() == got.keys()
    for step, values in expected.items():
        assert got[step] == pytest.approx(values, rel=2e-5), step
    assert found_metrics[0]["val_loss"] == pytest.approx(metrics[0]["val_loss"], rel=1e-5)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("mesh", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (1, 3)])
def test_every_mesh(corpus_dir, tiny_model_dir, tmp_path, straight, mesh):
    same(corpus_dir, tiny_model_dir, tmp_path, straight, mesh)


def test_adapters(corpus_dir, tiny_model_dir, tmp_path, straight):
    same(corpus_dir, tiny_model_dir, tmp_path, straight, (1, 2), lora=True)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    "levers",
    [
        {"checkpointing": "selective"},
        {"checkpointing": "full", "tile_size": 64},
        {"checkpointing": "full", "checkpoint_every": 2},
        {"checkpointing": "none", "tile_size": 32},
        {"checkpointing": "selective", "tile_size": 64, "offload": True},
    ],
)
def test_levers(corpus_dir, tiny_model_dir, tmp_path, straight, levers, lora):
    same(corpus_dir, tiny_model_dir, tmp_path, straight, (1, 2), levers=levers, lora=lora)


def test_several_rows_in_a_micro_batch(corpus_dir, tiny_model_dir, tmp_path, straight):
    same(corpus_dir, tiny_model_dir, tmp_path, straight, (2, 2), micro_batch=2)


def test_padding_and_ranks_without_targets(corpus_dir, tiny_model_dir, tmp_path, straight):
    same(corpus_dir, tiny_model_dir, tmp_path, straight, (1, 2), packing="single")


@pytest.mark.parametrize("own", [{"replicate_size": 2}, {"reduce_gradients": "last"}, {"reshard_after_forward": False}])
def test_policies(corpus_dir, tiny_model_dir, tmp_path, straight, own):
    same(corpus_dir, tiny_model_dir, tmp_path, straight, (2, 1), own=own)
