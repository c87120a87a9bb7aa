"""The registry, the probe and the choice: with backends whose speed and mistakes are known, and the real ones here."""

import copy
from dataclasses import replace

import pytest
import torch

from lit_long.attention import BACKENDS, attention_report, use_packed_attention
from lit_long.attention import select as select_module
from lit_long.attention.backends import AttentionBackend, AttentionCase
from lit_long.attention.backends.case import half_precision_on_cuda
from lit_long.attention.boundaries import Boundaries, boundaries
from lit_long.attention.probe import milliseconds, numerics, reference
from lit_long.attention.select import Selection
from lit_long.errors import UserError
from tests.attention.test_packed_attention import Largest, build

CPU = torch.device("cpu")
CASE = AttentionCase(
    device=CPU, dtype=torch.float32, heads=4, kv_heads=2, head_dim=16, value_dim=16, packed=True, dropout=False
)
SDPA = BACKENDS["sdpa"]


def fake(name, run=SDPA.run, missing=None, refuses=None):
    return AttentionBackend(name, lambda: missing, lambda case: refuses, run)


def batch(lengths=(5, 3), dtype=torch.float32):
    tokens = sum(lengths)
    shapes = ((1, tokens, 4, 16), (1, tokens, 2, 16), (1, tokens, 2, 16))
    cuts = torch.tensor([0, *lengths]).cumsum(0).int()
    return [torch.randn(shape, dtype=dtype) for shape in shapes], Boundaries(cuts, 1, tokens)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
def test_the_cpus_kernel_passes_the_probe(dtype, packed, heads, kv_heads):
    case = replace(CASE, dtype=dtype, packed=packed, heads=heads, kv_heads=kv_heads)
    assert SDPA.why_not(case) is None
    assert numerics(SDPA, case) is None
    assert numerics(SDPA, case, scale=0.3) is None


def broken(kind):
    def run(states, bounds, scale, dropout):
        query, key, value = states
        if kind == "leak":
            bounds = Boundaries(torch.tensor([0, bounds.tokens]), 1, bounds.tokens)
        if kind == "scale":
            scale = 0.5
        if kind == "gradient":
            value = value.detach() + 0 * value
        if kind == "crash":
            raise RuntimeError("no kernel image is available\nfor execution")
        out = SDPA.run((query, key, value), bounds, scale, dropout)
        return out * float("nan") if kind == "nan" else out

    return fake(kind, run)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("leak", "its output differs from float64"),
        ("scale", "its output differs from float64"),
        ("nan", "its output differs from float64 by nan"),
        ("gradient", "its dv differs from float64"),
        ("crash", "it failed: no kernel image is available"),
    ],
)
def test_a_kernel_that_is_wrong_is_found(kind, message):
    assert (numerics(broken(kind), CASE) or "").startswith(message)


def test_the_probe_draws_from_no_generator():
    before = torch.random.get_rng_state()
    numerics(SDPA, CASE)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_reference_is_stock_sdpa_with_a_mask():
    (q, k, v), _ = batch((5, 3), torch.float64)
    document = torch.tensor([0] * 5 + [1] * 3)
    mask = (document[:, None] == document) & torch.ones(8, 8, dtype=torch.bool).tril()
    heads_first = [t.transpose(1, 2) for t in (q, k, v)]
    stock = torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(reference((q, k, v), (5, 3), None), stock.transpose(1, 2), rtol=1e-12, atol=1e-12)


def choose(monkeypatch, backends, milliseconds=None, backend="auto"):
    monkeypatch.setattr(select_module, "BACKENDS", {b.name: b for b in backends})
    times = milliseconds or {}
    monkeypatch.setattr(select_module, "milliseconds", lambda backend, *_: times[backend.name])
    # a device that is not a CPU to the choice, so that it is timed
    selection = Selection(backend)
    states, bounds = batch()
    return selection, selection._choose(replace(CASE, device=torch.device("meta")), states, bounds, None)


def test_the_fastest_of_those_that_are_right(monkeypatch):
    monkeypatch.setattr(select_module, "numerics", lambda backend, case: "wrong" if backend.name == "quick" else None)
    backends = [
        fake("absent", missing="not installed"),
        fake("slow"),
        fake("good"),
        fake("quick"),
        fake("no", None, None, "x"),
    ]
    selection, chosen = choose(monkeypatch, backends, {"slow": 9.0, "good": 2.0, "quick": 1.0})
    assert chosen == "good"
    (candidates,) = selection.report.candidates.values()
    assert [(c.name, c.refused, c.milliseconds) for c in candidates] == [
        ("absent", "not installed", None),
        ("slow", None, 9.0),
        ("good", None, 2.0),
        ("quick", "wrong", None),
        ("no", "x", None),
    ]


def test_one_that_fails_on_the_real_shapes_is_out_and_not_the_run(monkeypatch):
    monkeypatch.setattr(select_module, "numerics", lambda backend, case: None)

    def milliseconds(backend, *_):
        if backend.name == "large":
            raise torch.OutOfMemoryError("out of memory\nat length")
        return 3.0

    backends = {name: fake(name) for name in ("large", "good")}
    monkeypatch.setattr(select_module, "BACKENDS", backends)
    monkeypatch.setattr(select_module, "milliseconds", milliseconds)
    selection = Selection()
    states, bounds = batch()
    assert selection._choose(replace(CASE, device=torch.device("meta")), states, bounds, None) == "good"
    (candidates,) = selection.report.candidates.values()
    assert candidates[0].refused == "it fails on this batch: out of memory"


def test_none_that_can_names_every_reason(monkeypatch):
    with pytest.raises(UserError, match=r"no attention kernel.*a: not installed; b: too old"):
        choose(monkeypatch, [fake("a", missing="not installed"), fake("b", refuses="too old")])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flash", r"'flash': there is none; give one of \['auto', 'varlen'"),
        ("flash_attn_3", "not installed; install it"),
    ],
)
def test_a_backend_that_is_not_there_is_refused_at_once(name, message):
    with pytest.raises(UserError, match=message):
        use_packed_attention(build("llama"), backend=name)


def test_a_pinned_backend_that_cannot_is_refused_at_the_first_batch():
    model = use_packed_attention(build("llama", dtype=torch.float32), backend="varlen")
    with pytest.raises(UserError, match=r"'varlen' cannot be used here: its kernels are for CUDA.*give backend: auto"):
        model(torch.zeros(1, 8, dtype=torch.int64), use_cache=False)


def test_a_pinned_backend_that_is_wrong_is_refused(monkeypatch):
    monkeypatch.setitem(BACKENDS, "leak", broken("leak"))
    model = use_packed_attention(build("llama", dtype=torch.float32), backend="leak")
    with pytest.raises(UserError, match="'leak' cannot be used here: its output differs from float64"):
        model(torch.zeros(1, 8, dtype=torch.int64), position_ids=torch.arange(4).repeat(2)[None], use_cache=False)


def test_choices_belong_to_a_model(monkeypatch):
    monkeypatch.setitem(BACKENDS, "other", fake("other"))
    ids = torch.zeros(1, 8, dtype=torch.int64)
    pinned, plain = use_packed_attention(build("llama"), "other"), use_packed_attention(build("llama"))
    copied = copy.deepcopy(pinned)
    for model, chosen in ((pinned, "other"), (plain, "sdpa"), (copied, "other")):
        with torch.no_grad():
            model(ids, use_cache=False)
        assert set(attention_report(model).chosen.values()) == {chosen}
    with torch.no_grad():
        use_packed_attention(pinned)(ids, use_cache=False)
    assert set(attention_report(pinned).chosen.values()) == {"sdpa"}
    with pytest.raises(UserError, match="was not switched to packed attention"):
        attention_report(build("llama"))


def test_the_report_says_what_runs_and_why_not_the_others():
    model = use_packed_attention(build("llama", dtype=torch.float32))
    assert str(attention_report(model)) == "attention: auto, nothing run yet"
    with torch.inference_mode():
        model(torch.zeros(1, 8, dtype=torch.int64), use_cache=False)
    text = str(attention_report(model))
    assert "attention (one document a row, float32, cpu): sdpa" in text
    assert "  varlen: its kernels are for CUDA, the tensors are on cpu" in text
    assert set(attention_report(model).chosen.values()) == {"sdpa"}


def test_timing_leaves_its_inputs_alone():
    with torch.inference_mode():
        states, bounds = batch()
    assert milliseconds(SDPA, states, bounds, None) > 0
    assert all(t.grad is None for t in states)


def test_flash_kernels_say_what_they_want():
    cuda = replace(CASE, device=torch.device("cuda"), dtype=torch.bfloat16)
    assert half_precision_on_cuda(cuda) is None
    assert "it takes bfloat16 and float16, the tensors are float32" in half_precision_on_cuda(
        replace(cuda, dtype=torch.float32)
    )
    assert "one head dimension up to 256, found 512" in half_precision_on_cuda(replace(cuda, head_dim=512))
    assert BACKENDS["varlen"].refuses(replace(cuda, dropout=True)) == "it has no dropout"
    assert "one document a row" in BACKENDS["cudnn"].refuses(cuda)
    assert BACKENDS["cudnn"].refuses(replace(cuda, packed=False)) is None


def test_varlen_speaks_the_signature_of_the_release(monkeypatch):
    """torch 2.11 to 2.13 name the causal option differently, and only later ones group heads and scale."""
    from lit_long.attention.backends import varlen

    seen = []

    def kernel(q, k, v, cu_q, cu_k, max_q, max_k, **options):
        seen.append((k.shape[1], (max_q, max_k), options))
        return torch.zeros_like(q)

    (q, k, v), bounds = batch()
    for names, heads, options in (
        ({"is_causal"}, 4, {"is_causal": True}),
        ({"window_size"}, 4, {"window_size": (-1, 0)}),
        ({"window_size", "enable_gqa", "scale"}, 2, {"window_size": (-1, 0), "enable_gqa": True, "scale": 0.3}),
    ):
        monkeypatch.setattr(varlen, "_varlen", lambda names=names: (kernel, frozenset(names)))
        out = BACKENDS["varlen"].run((q, k, v), bounds, 0.3, 0.0)
        assert out.shape == q.shape
        assert seen.pop() == (heads, (5, 5), options)


def test_boundaries_are_worked_out_once_for_all_layers(monkeypatch):
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 1, 2, 3, 4]])
    first = boundaries(None, positions, 2, 5)
    assert boundaries(None, positions, 2, 5) is first
    assert first.lengths == [3, 2, 5]
    assert (first.max_seqlen, first.one_per_row) == (5, False)
    positions[1, 3:] = torch.tensor([0, 1])  # changed in place: another batch
    assert boundaries(None, positions, 2, 5).lengths == [3, 2, 3, 2]
    other = positions.clone()
    assert boundaries(None, other, 2, 5) is not boundaries(None, positions, 2, 5)
    with torch.inference_mode():
        again = torch.arange(5)[None]
        assert boundaries(None, again, 1, 5).lengths == [5]
        again[0, 2:] = torch.arange(3)
        assert boundaries(None, again, 1, 5).lengths == [2, 3]


def test_a_bound_on_the_longest_document_saves_the_look(monkeypatch):
    bounds = boundaries(torch.tensor([0, 3, 5]), None, 1, 5, 4)
    monkeypatch.setattr(Boundaries, "lengths", property(lambda self: pytest.fail("looked")))
    assert bounds.max_seqlen == 4


def test_a_thousand_documents_cost_memory_in_proportion():
    """Each slice's backward pass would fill the whole row with zeros: 1,000 rows' worth; split does not."""

    class Total(Largest):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor) and not function.is_view:
                    self.numel += tensor.numel()
            return out

    totals = []
    for count in (100, 1000):
        states, bounds = batch((8,) * count)
        states = [t.requires_grad_() for t in states]
        with Total() as seen:
            SDPA.run(states, bounds, None, 0.0).sum().backward()
        totals.append(seen.numel)
    assert totals[1] < 11 * totals[0]
