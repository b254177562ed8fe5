"""The Triton kernels compile for a GPU that need not be there; `test_triton_kernels.py` runs this.

It is run in a process of its own, without `TRITON_INTERPRET`.
"""

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from arrcoc_verify.dictionary.kernels import triton_kernels, triton_step

HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {
    **dict.fromkeys(("indices", "offsets", "rows", "order"), "*i64"),
    **dict.fromkeys(("places", "proposed_at", "counts"), "*i32"),
    **dict.fromkeys(("columns", "channels", "entries", "k"), "i32"),
    **dict.fromkeys(("scale", "beta1", "beta2", "epsilon"), "fp32"),
    **dict.fromkeys(("half_enc", "half_dec", "read", "grad"), "*bf16"),
}
SIZES = {"BLOCK": 1024, "ENTRIES": 8, "CAPACITY": 64, "LANES": 1024, "LOW": 16, "PART": 64}
FLOAT, HALF = "*fp32", "*bf16"


@pytest.mark.parametrize(("kernel", "types"), [
    (triton_kernels._propose, {"pre": HALF}),
    (triton_kernels._settle, {}),
    (triton_kernels._bag_sum, {"table": HALF, "out": FLOAT}),
    (triton_kernels._bag_sum, {"BLOCK": 1}),
    (triton_kernels._bag_dot, {}),
    (triton_step._centre, {"out": HALF}),
    (triton_step._decode_pull, {"values": HALF, "w_dec": HALF}),
    (triton_step._update, {"values": HALF}),
])  # fmt: skip
def test_a_kernel_compiles_without_spilling_over(kernel, types):
    names = kernel.arg_names
    constants = {name: types.get(name, SIZES[name]) for name in names if name in SIZES}
    signature = {
        name: "constexpr" if name in constants else types.get(name, TYPES.get(name, FLOAT))
        for name in names
    }
    at = {(names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=at), target=HOPPER
    )

    assert compiled.asm["cubin"]
    assert ".local" not in compiled.asm["ptx"]
