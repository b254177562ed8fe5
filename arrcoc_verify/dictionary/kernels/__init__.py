"""The fast path of sparse training: encode and select at once, decode and learn from few latents.

Functions on plain tensors. They give what the dense formulas give, to the rounding of the type, on
any device; `primitives.py` says what runs where.
"""

from arrcoc_verify.dictionary.kernels.autograd import Weights, reconstruct
from arrcoc_verify.dictionary.kernels.backward import (
    Gradients,
    Term,
    backward,
    decode,
    project_,
    unit_norm_,
)
from arrcoc_verify.dictionary.kernels.codes import Codes
from arrcoc_verify.dictionary.kernels.selection import Select, encode_select, fast_bfloat16

__all__ = [
    "Codes",
    "Gradients",
    "Select",
    "Term",
    "Weights",
    "backward",
    "decode",
    "encode_select",
    "fast_bfloat16",
    "project_",
    "reconstruct",
    "unit_norm_",
]
