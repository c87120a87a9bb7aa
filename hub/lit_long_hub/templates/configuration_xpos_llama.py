# SPDX-License-Identifier: Apache-2.0
"""Config of a Llama with xPos: ``rope_parameters`` of type ``xpos`` hold ``rope_theta`` and ``xpos_scale_base``.

A model type of its own, and a RoPE type that transformers does not know: code without the scaling stops here instead
of running another model.
"""

import transformers
from transformers import LlamaConfig

if int(transformers.__version__.split(".")[0]) < 5:
    raise ImportError(f"This model's code needs transformers 5 or newer; {transformers.__version__} is installed.")


class XPosLlamaConfig(LlamaConfig):
    """Llama's config; ``rope_parameters`` are ``{"rope_type": "xpos", "rope_theta": ..., "xpos_scale_base": ...}``."""

    model_type = "xpos_llama"

    def _validate_xpos_rope_parameters(self, rope_parameters: dict, ignore_keys: set | None = None) -> None:
        for key in ("rope_theta", "xpos_scale_base"):
            if not rope_parameters.get(key, 0) > 0:
                raise ValueError(f"rope_parameters of type 'xpos' need a positive {key}: {rope_parameters}")


__all__ = ["XPosLlamaConfig"]
