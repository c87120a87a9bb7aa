# SPDX-License-Identifier: Apache-2.0
"""Llama with xPos (Sun et al. 2022): queries and keys are rotated, then scaled by their position.

The part of frequency j in an attention score is multiplied by ``zeta_j^((m - n) / s)`` for a query at position m and a
key at n, with ``zeta_j = (2j + 0.4 R) / (1.4 R)``, R rotary dimensions, s = ``xpos_scale_base``. Queries are scaled
by ``zeta_j^((m - c) / s)``, keys by ``zeta_j^(-(n - c) / s)``: c is half of ``max_position_embeddings``, cancels in
every score, and keeps both factors in the range of floats. As c is fixed, keys go into the cache scaled: any cache
works.

Beyond ``max_position_embeddings`` the factors go on growing: by ``1.81 * |position - c| / s`` bits, of 127 that floats
have. float16 has 15, and is refused.

Shapes: B rows, T tokens, H heads, D head dimension (= R).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaForCausalLM,
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from .configuration_xpos_llama import XPosLlamaConfig


class XPosLlamaRotaryEmbedding(nn.Module):
    """Cosines and sines of the rotation, and the factors of queries and keys."""

    inv_freq: torch.Tensor
    rope_type = "default"  # of the frequencies: transformers fills the buffers by compute_default_rope_parameters

    def __init__(self, config: XPosLlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.scale_base = float(config.rope_parameters["xpos_scale_base"])
        self.centre = config.max_position_embeddings / 2
        inv_freq, self.attention_scaling = self.compute_default_rope_parameters(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: XPosLlamaConfig, **kwargs: Any) -> tuple[torch.Tensor, float]:
        """Plain frequencies, computed in float64 and rounded once to float32 [D/2]; and no scale of cos and sin."""
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float64, device="cpu") / config.head_dim
        base = torch.tensor(float(config.rope_parameters["rope_theta"]), dtype=torch.float64, device="cpu")
        return base.pow(-exponents).float(), 1.0

    @torch.no_grad()
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Positions [B or 1, T] -> cos, sin (dtype of ``x``), factors of queries, of keys (float32), [B or 1, T, D]."""
        positions = position_ids[..., None].float()
        angles = positions * self.inv_freq.to(device=x.device, dtype=torch.float32)
        angles = torch.cat([angles, angles], dim=-1)
        exponents = (positions - self.centre) * self._bits(x.device)
        exponents = torch.cat([exponents, exponents], dim=-1)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype), torch.exp2(exponents), torch.exp2(-exponents)

    def _bits(self, device: torch.device) -> torch.Tensor:
        """``log2(zeta_j) / s``, float32 [D/2]: no buffer, so nothing can lower its precision."""
        dim = self.config.head_dim
        below_one = (torch.arange(0, dim, 2, dtype=torch.float32, device=device) - dim) / (1.4 * dim)
        return torch.log1p(below_one) / (math.log(2) * self.scale_base)


class XPosLlamaAttention(LlamaAttention):
    """Llama's attention with scaled queries and keys, on any attention implementation of transformers."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, ...],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As Llama's; ``position_embeddings`` are four (:class:`XPosLlamaRotaryEmbedding`)."""
        input_shape = hidden_states.shape[:-1]
        shape = (*input_shape, -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        if query.dtype == torch.float16:
            raise ValueError("xPos scales queries and keys beyond the range of float16: use bfloat16 or float32.")

        cos, sin, up, down = position_embeddings
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        query = (query * up[:, None]).to(query.dtype)
        key = (key * down[:, None]).to(key.dtype)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)

        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*input_shape, -1).contiguous()), weights


class XPosLlamaDecoderLayer(LlamaDecoderLayer):
    """Llama's layer around :class:`XPosLlamaAttention`."""

    def __init__(self, config: XPosLlamaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = XPosLlamaAttention(config=config, layer_idx=layer_idx)


class XPosLlamaModel(LlamaModel):
    """Llama's decoder of these layers and positions."""

    config_class = XPosLlamaConfig
    config: XPosLlamaConfig
    _no_split_modules = ["XPosLlamaDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: XPosLlamaConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)  # not LlamaModel's, which looks up the RoPE type
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(XPosLlamaDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = XPosLlamaRotaryEmbedding(config)
        self.gradient_checkpointing = False
        self.post_init()


class XPosLlamaForCausalLM(LlamaForCausalLM):
    """Llama's language model on :class:`XPosLlamaModel`."""

    config_class = XPosLlamaConfig
    config: XPosLlamaConfig
    _no_split_modules = ["XPosLlamaDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: XPosLlamaConfig) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = XPosLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()


__all__ = ["XPosLlamaForCausalLM", "XPosLlamaModel"]
