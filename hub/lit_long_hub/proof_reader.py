"""Reads a release the way a stranger does: plain transformers, a fresh process, nothing of lit-long.

Run by path (``python -P proof_reader.py FOLDER PROMPTS RESULT``), so it must import neither lit_long nor anything
beside it. The same ``measure`` runs on the training model in the exporting process; then the two are compared.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch

KEPT_POSITIONS = 64
"""Logits are compared at the last so many positions of a prompt, each of which has seen all earlier ones."""


def measure(
    model: Any, prompts: list[dict[str, Any]], *, losses: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """Logits of a model on prompts, in the dtype of its weights, on the CPU.

    Args:
        model: A causal LM.
        prompts: Each with ``name``, ``input_ids`` and ``position_ids`` (lists of T integers).
        losses: Filled, if given: prompt name to the loss of each next token in nats, float32 [T - 1].

    Returns:
        Prompt name to float32 [min(T, 64), V].
    """
    logits = {}
    with torch.no_grad():
        for prompt in prompts:
            ids = torch.tensor([prompt["input_ids"]])
            output = model(
                input_ids=ids,
                position_ids=torch.tensor([prompt["position_ids"]]),
                # Given, so that transformers does not take a jump in the positions for a new packed document.
                attention_mask=torch.ones_like(ids),
                use_cache=False,
            )
            logits[prompt["name"]] = output.logits[0, -KEPT_POSITIONS:].float().contiguous()
            if losses is not None:
                scores = output.logits[0, :-1].float()
                losses[prompt["name"]] = torch.nn.functional.cross_entropy(scores, ids[0, 1:], reduction="none")
    return logits


def computing_in_float32(model: Any) -> Any:
    """Make a model compute in float32 on weights that stay in memory as they are: one module at a time is widened.

    The numbers are those of ``model.float()``, for half the memory of it where weights are bfloat16 or float16.
    """

    def widen(module: Any, _: Any) -> None:
        kept = [(parameter, parameter.data) for parameter in module.parameters(recurse=False)]
        module.__dict__["_kept"] = kept
        for parameter, data in kept:
            parameter.data = data.float()

    def narrow(module: Any, _: Any, __: Any) -> None:
        for parameter, data in module.__dict__.pop("_kept"):
            parameter.data = data

    for module in model.modules():
        if any(parameter.dtype != torch.float32 for parameter in module.parameters(recurse=False)):
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(narrow)
    return model.eval()


def rotary(model: Any) -> tuple[torch.Tensor, float, str]:
    """The live rotary frequencies of a model.

    Returns:
        ``inv_freq`` as float64 [D/2], the factor on cos and sin, and the dtype the model holds the frequencies in.

    Raises:
        ValueError: The model has none, or modules that disagree.
    """
    found = [module for module in model.modules() if isinstance(getattr(module, "inv_freq", None), torch.Tensor)]
    if not found:
        raise ValueError("the model has no module with inv_freq")
    first = found[0].inv_freq
    if any(not torch.equal(module.inv_freq, first) for module in found):
        raise ValueError("the model's rotary modules hold different inv_freq")
    scaling = float(getattr(found[0], "attention_scaling", 1.0))
    return first.detach().double().cpu(), scaling, str(first.dtype).removeprefix("torch.")


def read_tokenizer(tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    """What a tokenizer does to texts: ids, special tokens, maximum length and chat template."""
    template = tokenizer.chat_template
    return {
        "ids": [tokenizer(text)["input_ids"] for text in texts],
        "size": len(tokenizer),
        "special": {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")},
        "chat_template": None if template is None else hashlib.sha256(str(template).encode()).hexdigest(),
        "model_max_length": tokenizer.model_max_length,
    }


def read_folder(
    folder: Path,
    prompts: list[dict[str, Any]],
    texts: list[str],
    *,
    custom_code: bool = False,
    base: Path | None = None,
) -> dict[str, Any]:
    """Load a release with plain transformers and measure it.

    Args:
        folder: The release.
        prompts: As ``measure`` has them.
        texts: For the tokenizer.
        custom_code: Whether to run the release's own code, after it is seen that it does not load without.
        base: Of an adapter, the folder of its base model.

    The weights are loaded in the dtype that the release declares, then computed with in float32: what is compared is
    the stored numbers, not the rounding of a machine's low-precision kernels.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if base is not None:
        return _read_adapter(folder, base, prompts, texts)
    if custom_code:
        _require_refusal(folder)
    model, loading = AutoModelForCausalLM.from_pretrained(
        str(folder), dtype="auto", output_loading_info=True, trust_remote_code=custom_code
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            raise ValueError(f"{kind} on loading: {sorted(map(str, loading[kind]))[:5]}")
    dtypes = sorted({str(value.dtype).removeprefix("torch.") for value in model.parameters()})
    inv_freq, scaling, held_in = rotary(model)
    model = computing_in_float32(model)
    losses: dict[str, torch.Tensor] = {}
    return {
        "logits": measure(model, prompts, losses=losses),
        "losses": losses,
        "inv_freq": inv_freq,
        "attention_scaling": scaling,
        "inv_freq_dtype": held_in,
        "dtypes": dtypes,
        "context_length": model.config.max_position_embeddings,
        "tokenizer": read_tokenizer(AutoTokenizer.from_pretrained(str(folder), trust_remote_code=custom_code), texts),
        "versions": _versions(),
    }


def _read_adapter(folder: Path, base: Path, prompts: list[dict[str, Any]], texts: list[str]) -> dict[str, Any]:
    """The same of an adapter: on its base with the folder's config, and beside it on the base as it is."""
    from peft import PeftModel
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    def load(config: Any) -> Any:
        model = AutoModelForCausalLM.from_pretrained(str(base), config=config, dtype=torch.float32)
        return PeftModel.from_pretrained(model, str(folder)).float().eval()

    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    model = load(AutoConfig.from_pretrained(str(folder)))
    live = {
        name.replace(".modules_to_save.default.", ".").replace(".default.", "."): value
        for name, value in model.state_dict().items()
    }
    for name, value in stored.items():
        if name not in live or not torch.equal(live[name], value.float()):
            raise ValueError(f"peft does not load {name} from the adapter")
    inv_freq, scaling, held_in = rotary(model)
    losses: dict[str, torch.Tensor] = {}
    found = {
        "logits": measure(model, prompts, losses=losses),
        "losses": losses,
        "inv_freq": inv_freq,
        "attention_scaling": scaling,
        "inv_freq_dtype": held_in,
        "dtypes": sorted({str(value.dtype).removeprefix("torch.") for value in stored.values()}),
        "context_length": model.config.max_position_embeddings,
        "tokenizer": read_tokenizer(AutoTokenizer.from_pretrained(str(folder)), texts),
        "versions": _versions(),
    }
    del model, live
    return found | {"logits_without_config": measure(load(AutoConfig.from_pretrained(str(base))), prompts)}


def live_rotary(model: Any) -> tuple[torch.Tensor, float, str]:
    """As ``rotary``, of a model on the meta device: its rotary modules alone are built on the CPU, with numbers.

    Raises:
        ValueError: The model has none, or modules that disagree.
    """
    found = [module for module in model.modules() if isinstance(getattr(module, "inv_freq", None), torch.Tensor)]
    return rotary(torch.nn.ModuleList(type(module)(getattr(module, "config", model.config)) for module in found))


def read_structure(folder: Path, texts: list[str], *, custom_code: bool = False) -> dict[str, Any]:
    """Build the model of a release on the meta device, and load its tokenizer; no weight is looked at.

    Args:
        folder: The release, with or without its weights.
        texts: For the tokenizer.
        custom_code: Whether to run the release's own code, after it is seen that it does not load without.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if custom_code:
        _require_refusal(folder)
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=custom_code)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=custom_code)
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    inv_freq, scaling, held_in = live_rotary(model)
    return {
        "model_class": type(model).__name__,
        "shapes": {name: list(value.shape) for name, value in model.state_dict().items()},
        "tied": [names for names in groups.values() if len(names) > 1],
        "inv_freq": inv_freq,
        "attention_scaling": scaling,
        "inv_freq_dtype": held_in,
        "dtype": str(config.dtype).removeprefix("torch."),
        "context_length": config.max_position_embeddings,
        "tokenizer": read_tokenizer(AutoTokenizer.from_pretrained(str(folder), trust_remote_code=custom_code), texts),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    import platform

    import transformers

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }


def _require_refusal(folder: Path) -> None:
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except ValueError:
        return
    raise ValueError("the folder holds code of its own and loads without it, as another model")


def main(folder: str, request: str, result: str) -> int:
    """Measure ``folder`` as ``request`` asks (JSON) and save the answer (tensors and plain data) to ``result``."""
    asked, place = json.loads(Path(request).read_text()), Path(folder)
    if asked["prompts"] is None:
        answer = read_structure(place, asked["texts"], custom_code=asked["custom_code"])
    else:
        base = Path(asked["base"]) if asked.get("base") else None
        answer = read_folder(place, asked["prompts"], asked["texts"], custom_code=asked["custom_code"], base=base)
    strangers = sorted(name for name in sys.modules if name.partition(".")[0] in ("lit_long", "lit_long_hub"))
    if strangers:
        raise RuntimeError(f"the proof must run without lit-long, but {strangers[0]} is loaded")
    torch.save(answer, result)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
