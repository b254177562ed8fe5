"""A label is found where it is, by towers that know colours; weights come from a folder only."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from arrcoc_verify import _torchvision
from arrcoc_verify.debug import labels
from arrcoc_verify.debug.case import make_case
from arrcoc_verify.debug.labels import Encoder, load, surest, windows
from arrcoc_verify.errors import BadModel, BadRegion


def colours():
    """Return towers in which pictures are their mean colour and texts the colour they name."""

    def images(pictures):
        rows = [torch.tensor(one.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))).double()
                for one in pictures]  # fmt: skip
        return torch.nn.functional.normalize(torch.stack(rows), dim=1)

    def texts(given):
        red, grey = torch.tensor([1.0, 0, 0]), torch.tensor([1.0, 1, 1])
        rows = [red if "red" in one else grey for one in given]
        return torch.nn.functional.normalize(torch.stack(rows).double(), dim=1)

    return Encoder(images=images, texts=texts, scale=50.0)


@pytest.fixture
def picture():
    made = Image.new("RGB", (200, 200), (128, 128, 128))
    made.paste((250, 10, 10), (150, 0, 200, 50))
    return made


def test_the_window_of_the_label_is_the_one_that_shows_it(picture):
    box, sure = surest(picture, "red thing", colours())

    assert (150, 0, 50, 50) == box
    assert sure > 0.99


def test_what_is_not_there_is_not_found(picture, tmp_path, monkeypatch, sound):
    monkeypatch.setattr(labels, "load", lambda folder: colours())
    plain = Image.new("RGB", (64, 64), (128, 128, 128))

    with pytest.raises(BadRegion, match="no red thing was found in picture"):
        make_case(sound, plain, "find it", label="red thing", labels=tmp_path)
    assert (
        "red thing"
        == make_case(sound, picture, "find it", label="red thing", labels=tmp_path).label
    )


@pytest.mark.parametrize("size", [(200, 200), (64, 33), (1, 1), (1000, 20)])
def test_windows_lie_inside_and_cover_everything(size):
    covered = torch.zeros(size[1], size[0])
    for x, y, wide, high in windows(size)[1:] or windows(size):
        assert 0 <= x <= x + wide <= size[0]
        assert 0 <= y <= y + high <= size[1]
        covered[y : y + high, x : x + wide] = 1

    assert bool(covered.all())


@pytest.mark.parametrize("name", ["", "open_clip_config.json", "open_clip_model.bin"])
def test_a_folder_without_safetensors_is_refused(tmp_path, name):
    if name:
        (tmp_path / name).write_text("{}", encoding="utf-8")

    with pytest.raises(BadModel, match=r"wanted a folder with open_clip_config\.json"):
        load(tmp_path)


def test_a_model_is_read_from_its_folder(tmp_path):
    _torchvision.prepare()
    import open_clip

    sizes = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16,
                       "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 1,
                     "layers": 1},
    }  # fmt: skip
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**sizes).state_dict(), tmp_path / "open_clip_model.safetensors")
    config = {"model_cfg": sizes, "preprocess_cfg": {}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    encoder = load(tmp_path)
    seen, said = encoder.images([Image.new("RGB", (50, 40))]), encoder.texts(["a red thing", "b"])

    assert (1, 8) == seen.shape
    assert said.norm(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert encoder.scale == pytest.approx(1 / 0.07, rel=1e-3)
