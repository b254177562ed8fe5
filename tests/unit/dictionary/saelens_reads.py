"""Run by an interpreter that has sae-lens: load each folder below argv[1], keep what it gives."""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[3]))


def main(root: Path) -> None:
    """Encode, decode and write again by sae-lens."""
    from arrcoc_verify._torchvision import prepare

    prepare()
    from sae_lens import SAE

    x = load_file(root / "x.safetensors")["x"]
    for folder in sorted(path.parent for path in root.glob("*/cfg.json")):
        sae = SAE.load_from_disk(str(folder), device="cpu")
        with torch.no_grad():
            codes = sae.encode(x)
            drawn = sae.decode(codes)
        told = {"codes": codes.contiguous(), "drawn": drawn.contiguous()}
        save_file(told, root / f"{folder.name}.told.safetensors")
        sae.save_model(str(root / f"{folder.name}.again"))


main(Path(sys.argv[1]))
