"""RoPE scaling: methods by formula, applied to a Hugging Face config, proved on the live model.

Order of use: ``RopeGeometry.from_config`` (remember the native model), ``scale_rope`` (before weights are loaded),
``verify_rope`` (on the live model); between stages of training, ``switch_rope``. Imports torch, never transformers.
``docs/rope.md`` is the guide.
"""

from lit_long.rope.apply import scale_rope
from lit_long.rope.base import RopeScaling
from lit_long.rope.geometry import RopeGeometry, expected_inv_freq
from lit_long.rope.methods.abf import ABF
from lit_long.rope.methods.linear import Linear
from lit_long.rope.methods.llama3 import Llama3
from lit_long.rope.methods.no_scaling import NoScaling
from lit_long.rope.methods.ntk import NTK
from lit_long.rope.methods.xpos import XPosABF
from lit_long.rope.methods.yarn import YaRN
from lit_long.rope.registry import rope_method, rope_methods
from lit_long.rope.switch import switch_rope
from lit_long.rope.verify import RopeMismatchError, RopeReport, verify_rope

__all__ = [
    "ABF",
    "NTK",
    "Linear",
    "Llama3",
    "NoScaling",
    "RopeGeometry",
    "RopeMismatchError",
    "RopeReport",
    "RopeScaling",
    "XPosABF",
    "YaRN",
    "expected_inv_freq",
    "rope_method",
    "rope_methods",
    "scale_rope",
    "switch_rope",
    "verify_rope",
]
