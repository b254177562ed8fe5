"""Folders written here, read by sae-lens itself and written by it, read here.

Asked for by `ARRCOC_SAELENS_PYTHON`, the path of a Python that has sae-lens 6.
"""

import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.dictionary.formats import read_foreign, write_saelens

PYTHON = os.environ.get("ARRCOC_SAELENS_PYTHON")
ARCHITECTURES = ("standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka")
X = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))


def made(architecture):
    dictionary = Dictionary(
        DictionaryConfig(architecture=architecture, d_in=8, latents=16, k=3), seed=1
    )
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        dictionary.threshold.add_(0.1).abs_()
        dictionary.normalise_()
    return dictionary


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    root = tmp_path_factory.mktemp("saelens")
    save_file({"x": X}, root / "x.safetensors")
    for architecture in ARCHITECTURES:
        write_saelens(root / architecture, made(architecture))
    script = Path(__file__).with_name("saelens_reads.py")
    subprocess.run([str(PYTHON), str(script), str(root)], check=True, capture_output=True)
    return root


@pytest.mark.skipif(PYTHON is None, reason="ARRCOC_SAELENS_PYTHON names no Python with sae-lens")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sae_lens_gives_the_same_codes_and_reconstruction_and_its_copy_is_read(architecture, told):
    one = made(architecture)
    theirs = load_file(told / f"{architecture}.told.safetensors")
    torch.testing.assert_close(theirs["codes"], one.encode(X), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(theirs["drawn"], one(X), rtol=1e-5, atol=1e-5)
    again = read_foreign(told / f"{architecture}.again")
    torch.testing.assert_close(again(X), one(X), rtol=1e-5, atol=1e-5)
