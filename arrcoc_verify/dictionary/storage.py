"""A dictionary on disk: `dictionary.json` says what it is, `dictionary.safetensors` holds it.

dictionary.json, version 1:

    format      "arrcoc-dictionary"
    version     1
    config      fields of `DictionaryConfig`
    about       site, model, what it was trained on and how; free, and shown to people
    sha256      of the safetensors file

The tensors are named and shaped as the attributes of `Dictionary`, float32, in the scale of the
site's activations: whatever they were multiplied by in training has been folded in.
"""

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from arrcoc_verify.dictionary.architecture import Dictionary, DictionaryConfig
from arrcoc_verify.errors import ArrcocError, StoreError, UsageError
from arrcoc_verify.report.atomic import make_folder, sha256, write_bytes, write_text

CONFIG, WEIGHTS = "dictionary.json", "dictionary.safetensors"
FORMAT, VERSION = "arrcoc-dictionary", 1
ACTIVATIONS = "activations"
"""Folder beside dictionaries with what they were trained on."""
TWINS = "twins"
"""Folder in a dictionary's own, with what it was compared with; nothing else looks there."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """A dictionary with what is said of it.

    Attributes:
        dictionary: ready to encode the site's activations.
        about: `site`, `model`, `query_site` and how it was trained, where known.
    """

    dictionary: Dictionary
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def site(self) -> str:
        """Name of the site it encodes; StoreError where nothing says so."""
        name = self.about.get("site")
        if not isinstance(name, str):
            raise StoreError(
                "nothing says which site this dictionary encodes: wanted "
                f'"site" with its name under "about" in {CONFIG}'
            )
        return name

    @property
    def encoded(self) -> tuple[str, ...]:
        """Names of the sites whose activations it encodes, side by side."""
        return tuple(map(str, self.about.get("sites") or ())) or (self.site,)

    @property
    def decoded(self) -> tuple[str, ...]:
        """Names of the sites that it decodes; StoreError where nothing says a transcoder's."""
        target = self.about.get("target")
        if target is None and self.dictionary.config.transcoder:
            raise StoreError(
                "nothing says which site this transcoder decodes: wanted "
                f'"target" with its name under "about" in {CONFIG}'
            )
        return self.encoded if target is None else (str(target),)

    @property
    def autoencoder(self) -> bool:
        """Whether it decodes the one site that it encodes."""
        return self.encoded == (self.site,) and not self.dictionary.config.transcoder


def save_dictionary(folder: Path, kept: Kept) -> None:
    """Write a dictionary; the description comes last, so that a torn one is never read.

    Raises:
        RecordError: the disk is full or cannot be written.
    """
    make_folder(folder)
    state = kept.dictionary.state_dict()
    data = save_tensors({name: value.cpu().contiguous() for name, value in state.items()})
    write_bytes(folder / WEIGHTS, data)
    told = {
        "format": FORMAT, "version": VERSION, "config": kept.dictionary.config.plain(),
        "about": dict(kept.about), "sha256": sha256(data),
    }  # fmt: skip
    write_text(folder / CONFIG, json.dumps(told, indent=1, ensure_ascii=False) + "\n")


def load_dictionary(folder: Path) -> Kept:
    """Read a dictionary that `save_dictionary` wrote.

    Raises:
        StoreError: there is none, it is damaged, or of another version.
    """
    try:
        told = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        data = (folder / WEIGHTS).read_bytes()
    except (OSError, ValueError) as error:
        raise StoreError(
            f"wanted a dictionary ({CONFIG} and {WEIGHTS}) in {folder}: {error}"
        ) from error
    if not isinstance(told, dict) or told.get("format") != FORMAT or told.get("version") != VERSION:
        raise StoreError(
            f"{folder / CONFIG} is not of format {FORMAT} version {VERSION}; "
            "folders of other libraries are read by functions of arrcoc_verify.dictionary.formats"
        )
    if told.get("sha256") != sha256(data):
        raise StoreError(f"{folder / WEIGHTS} is damaged: its SHA-256 is not the one noted")
    try:
        config = DictionaryConfig(**tuples(told["config"]))
        dictionary = Dictionary(config)
        dictionary.load_state_dict(load_tensors(data))
    except (ArrcocError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise StoreError(f"{folder} holds no dictionary that fits its description: {error}") from (
            error
        )
    return Kept(dictionary=dictionary.eval(), about=told.get("about", {}))


def find_dictionaries(folder: Path) -> list[Path]:
    """Return the folders of dictionaries at or below a folder, in order, without their twins.

    Raises:
        StoreError: there is none.
    """
    places = sorted(path.parent for path in folder.rglob(CONFIG)) if folder.is_dir() else []
    found = [place for place in places if TWINS not in place.relative_to(folder).parts]
    if not found:
        raise StoreError(
            f"wanted a folder with dictionaries, found none in {folder}: "
            "train some by `arrcoc-verify train-dictionary`"
        )
    return found


def of_model(folder: Path, sites: Container[str], name: str) -> list[Kept]:
    """Return the dictionaries at or below a folder that claims and pages are made of, one a site.

    Crosscoders and transcoders are left out.

    Args:
        folder: where to look.
        sites: names of the model's sites.
        name: of the model, for messages.

    Raises:
        StoreError: there is none, or one is damaged.
        UsageError: none is of such a site, or several are of the same.
    """
    kept = {path: load_dictionary(path) for path in find_dictionaries(folder)}
    usable = {
        path: one for path, one in kept.items()
        if one.site in sites and one.autoencoder
    }  # fmt: skip
    if not usable:
        there = ", ".join(sorted({one.site for one in kept.values()}))
        raise UsageError(
            f"no dictionary in {folder} is an autoencoder of a site of {name}; those there are of "
            f"{there}"
        )
    found: dict[str, list[Path]] = {}
    for path, one in usable.items():
        found.setdefault(one.site, []).append(path)
    for site, several in found.items():
        if len(several) > 1:
            raise UsageError(
                f"wanted one dictionary of {site}, found {len(several)}: "
                f"{', '.join(map(str, several))}; name the folder of one of them"
            )
    return list(usable.values())


def weights_digest(dictionaries: Sequence[Kept]) -> str:
    """Return the SHA-256 of the weights of dictionaries, in order."""
    found = hashlib.sha256()
    for one in dictionaries:
        found.update(one.site.encode())
        for key, value in sorted(one.dictionary.state_dict().items()):
            found.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as a frozen class has them: JSON's lists are its tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in config.items()}
