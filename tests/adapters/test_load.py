"""Naming a model: every form loads, every failure says what was wanted and what to try."""

import os
import pickle
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from arrcoc_verify.adapters import load
from arrcoc_verify.adapters.weights import fill, load_weights
from arrcoc_verify.errors import BadModel, UnknownName
from arrcoc_verify.model import Model

STAGES = """
import torch
from torch import nn

def relevance(image):
    return image.mean(1).unfold(1, 16, 16).unfold(2, 16, 16).mean((3, 4))

def tokens(relevance):
    return (64 + 336 * relevance).round()

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 16, 16), nn.ReLU())
        self.head = nn.Conv2d(width, 1, 1)
        self.dropout = nn.Dropout(0.5)

    def forward(self, image):
        return self.head(self.dropout(self.body(image))).squeeze(1).sigmoid()

def model():
    from arrcoc_verify.adapters import describe
    steps = {"relevance": relevance, "tokens": tokens}
    return describe("made", steps, grid=(4, 4), image_size=(64, 64))

def mapping():
    size = {"grid": (4, 4), "image_size": (64, 64)}
    return {"name": "mapped", "steps": {"tokens": relevance}, **size}

def network():
    return Net()

def trains():
    from arrcoc_verify.adapters import Part, describe
    steps = {"relevance": Part(run=Net(), inputs=("image",)), "tokens": tokens}
    return describe("trains", steps, grid=(4, 4), image_size=(64, 64))

def fails():
    raise RuntimeError("out of luck")

number = 3
"""
TOML = """
[model]
name = "declared"
grid = [4, 4]
image_size = [64, 64]
[[step]]
name = "relevance"
run = "stages.py:relevance"
[[step]]
name = "tokens"
run = "stages.py:tokens"
"""
NET = """
[model]
grid = [4, 4]
image_size = [64, 64]
[declaration]
lod = [0, 400]
query_path = "none"
[[module]]
name = "net"
make = "stages.py:Net"
arguments = { width = 6 }
weights = "net.safetensors"
[[step]]
name = "relevance"
run = "net"
[[step]]
name = "tokens"
run = "stages.py:tokens"
[[site]]
name = "encoder.body"
module = "net.body.0"
[profile]
excluded = { "knowing.x" = "we do not say so" }
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a stranger's files; what they add to the imports is taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "stages.py").write_text(STAGES)
    (tmp_path / "model.toml").write_text(TOML)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("model.toml", "declared"),
        ("stages:model", "made"),
        ("stages.py:model", "made"),
        ("stages:mapping", "mapped"),
        ("reference:analytic", "reference:analytic"),
    ],
)
def test_each_form_of_naming_a_model_loads_it(folder, spec, name):
    model = load(spec)
    assert isinstance(model, Model)
    assert (name, spec) == (model.name, model.spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "wanted reference:analytic"),
        ("model", "names no model; wanted"),
        ("reference:analytik", "mean 'analytic'"),
        ("reference:trained@missing.safetensors", "missing.safetensors"),
        ("missing.toml", "there is no file missing.toml; looked in"),
        ("missing:model", "there is no module 'missing'; looked in"),
        ("missing.py:model", "there is no file missing.py"),
        ("stages:modell", "mean 'model'"),
        ("stages:number", "is a int; wanted a Model or a function"),
        ("stages:network", "returned a Net; wanted a Model .* or .whole"),
        ("stages:fails", r"RuntimeError: out of luck \(stages.py, line"),
        ("stages:trains", "module Net of 'trains' is in training mode; call .eval"),
        ("stages:", "names no model"),
        ("arrcoc01:missing", "there is no folder missing"),
        ("arrcoc01:.", "no file of . defines generate_texture_array"),
        ("missing.pt", "there is no file missing.pt"),
    ],
)
def test_a_bad_name_says_what_was_wanted_and_what_to_try(folder, spec, message):
    with pytest.raises((BadModel, UnknownName), match=message):
        load(spec)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("1 / 0", r"ZeroDivisionError: division by zero \(broken.py, line 1\)"),
        ("def model(:", "SyntaxError"),
        ("import not_installed_anywhere", "not_installed_anywhere"),
    ],
)
def test_a_file_that_cannot_run_is_told_in_one_sentence(folder, code, message):
    (folder / "broken.py").write_text(code)
    for spec in ("broken:model", "broken.py:model"):
        with pytest.raises(BadModel, match=message):
            load(spec)


def test_a_file_may_import_its_neighbours(folder):
    (folder / "helper_of_it.py").write_text("GRID = (4, 4)\n")
    (folder / "user.py").write_text(
        "from helper_of_it import GRID\nfrom stages import relevance\n"
        "def model():\n"
        "    return dict(name='n', steps={'tokens': relevance}, grid=GRID, image_size=(64, 64))\n"
    )
    assert load("user.py:model").declaration.grid == (4, 4)


def test_an_edited_file_is_read_again(folder):
    assert load("model.toml").declaration.grid == (4, 4)
    before = load("model.toml").digest
    (folder / "stages.py").write_text(STAGES.replace("64 + 336", "64 + 300"))
    assert load("model.toml").digest != before


def weights(folder, width=6):
    torch.manual_seed(3)
    body = torch.nn.Conv2d(3, width, 16, 16)
    head = torch.nn.Conv2d(width, 1, 1)
    held = {f"body.0.{k}": v for k, v in body.state_dict().items()}
    held |= {f"head.{k}": v for k, v in head.state_dict().items()}
    return {name: value.clone() for name, value in held.items()}


def test_a_toml_file_makes_a_network_with_its_weights(folder):
    held = weights(folder)
    save_file(held, folder / "net.safetensors")
    (folder / "net.toml").write_text(NET)
    model = load("net.toml")
    assert torch.equal(held["head.weight"], model.modules[0].head.weight)
    assert not any(part.training for part in model.modules[0].modules())
    assert ("image", "channel", "row", "column") == model.site("encoder.body").axes
    assert (0, 400) == model.declaration.lod
    assert {"knowing.x": "we do not say so"} == model.profile.excluded


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "declared"', 'nmae = "x"', "unknown key of .model. 'nmae': did you mean 'name'"),
        ("[[step]]", "[[setp]]", "unknown table 'setp': did you mean 'step'"),
        ("[[step]]", "[step]", "not TOML|two brackets"),
        ('grid = [4, 4]', "", "needs 'grid'"),
        ('grid = [4, 4]', 'grid = "big"', "must be two whole numbers, got 'big'"),
        ('grid = [4, 4]', 'grid = [4, 4]\nlod = [1, 2]', r"belongs under \[declaration\]"),
        ('grid = [4, 4]', 'grid = [5, 5]', r"on the grid \(5, 5\) has no such patches"),
        ("stages.py:tokens", "stages.py:token", "mean 'tokens'"),
        ("stages.py:tokens", "../stages.py:tokens", "leaves the folder"),
        ("stages.py:tokens", "/etc/hosts.py:tokens", "leaves the folder"),
        ("stages.py:tokens", "tokens", "unknown module 'tokens'"),
        ('run = "stages.py:tokens"', "", "needs `run` as text"),
        ('name = "tokens"', "", "needs a `name`"),
        ('name = "tokens"', 'name = "relevance"', "two .* are called 'relevance'"),
        ("[model]", "[model", "not TOML"),
        ("stages.py:tokens", "os:system", "lies in Python's own library"),
        ("[model]", "[profile]\nexcludes = {}\n[model]", "field of the profile 'excludes': did"),
    ],
)  # fmt: skip
def test_a_toml_file_that_does_not_fit_says_where(folder, old, new, message):
    (folder / "model.toml").write_text(TOML.replace(old, new))
    with pytest.raises((BadModel, UnknownName), match=message):
        load("model.toml")


def test_a_link_out_of_the_folder_is_followed_and_refused(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "stages.py"
    outside.write_text(STAGES)
    (folder / "link.py").symlink_to(outside)
    (folder / "model.toml").write_text(TOML.replace("stages.py:tokens", "link.py:tokens"))
    with pytest.raises(BadModel, match="leaves the folder"):
        load("model.toml")


NEIGHBOURS = """
[model]
grid = [4, 4]
image_size = [64, 64]
[[step]]
name = "tokens"
run = "{step}"
[[site]]
name = "balancing.relevance"
function = "{site}"
"""


@pytest.mark.parametrize("step", ["user.py:both", "user:both"])
@pytest.mark.parametrize("site", ["stages.py:relevance", "stages:relevance", "user.py:relevance"])
def test_a_function_that_a_neighbour_imported_by_name_is_the_same_function(folder, step, site):
    (folder / "user.py").write_text(
        "from stages import relevance, tokens\n\ndef both(image):\n"
        "    return tokens(relevance(image))\n"
    )
    (folder / "two.toml").write_text(NEIGHBOURS.format(step=step, site=site))
    assert load("two.toml").role("relevance").name == "balancing.relevance"


class Malicious:
    """Unpickled, it makes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt", "net.bin", "net.pkl", "net"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_is_refused_whatever_it_is_called_and_does_not_run(folder, name, protocol):
    target, path = folder / "executed", folder / name
    path.write_bytes(pickle.dumps({"head.weight": Malicious(target)}, protocol=protocol))
    with pytest.raises(BadModel, match=r"is a pickle: .*not opened.*safetensors.torch.save_file"):
        load_weights(path)
    assert not target.exists()


def test_a_torch_file_that_wants_to_run_code_is_refused_and_does_not_run(folder):
    target, path = folder / "executed", folder / "net.pt"
    torch.save({"head.weight": Malicious(target)}, path)
    with pytest.raises(BadModel, match=r"wants to run code .*not opened"):
        load_weights(path)
    assert not target.exists()


def test_a_model_named_by_a_pickle_is_refused_with_the_way_out(folder):
    (folder / "model.pkl").write_bytes(pickle.dumps(Malicious(folder / "executed")))
    with pytest.raises(BadModel, match=r"is a pickle.*safetensors"):
        load("model.pkl")
    assert not (folder / "executed").exists()


def test_a_toml_file_with_a_pickle_for_weights_is_refused(folder):
    (folder / "net.safetensors").write_bytes(pickle.dumps(Malicious(folder / "executed")))
    (folder / "net.toml").write_text(NET)
    with pytest.raises(BadModel, match="is a pickle"):
        load("net.toml")
    assert not (folder / "executed").exists()


def test_plain_torch_weights_are_read_with_tensors_only(folder):
    held = weights(folder)
    for data in (held, {"state_dict": held, "step": 3}):
        torch.save(data, folder / "net.pt")
        assert torch.equal(held["head.bias"], load_weights(folder / "net.pt")["head.bias"])


def test_damaged_and_unknown_weights_files_are_told_apart(folder):
    save_file(weights(folder), folder / "net.safetensors")
    whole = (folder / "net.safetensors").read_bytes()
    (folder / "net.safetensors").write_bytes(whole[:-100])
    with pytest.raises(BadModel, match="damaged"):
        load_weights(folder / "net.safetensors")
    torch.save(weights(folder), folder / "net.pt")
    (folder / "net.pt").write_bytes((folder / "net.pt").read_bytes()[:-200])
    with pytest.raises(BadModel, match="damaged"):
        load_weights(folder / "net.pt")
    for content in (b"", b"hello", b"\x93NUMPY"):
        (folder / "net.npy").write_bytes(content)
        with pytest.raises(BadModel, match="neither safetensors nor torch's zip format"):
            load_weights(folder / "net.npy")
    with pytest.raises(BadModel, match="there is no weights file"):
        load_weights(folder / "none.safetensors")


def test_weights_that_do_not_fit_say_which(folder):
    save_file(weights(folder, width=5), folder / "net.safetensors")
    (folder / "net.toml").write_text(NET)
    with pytest.raises(
        BadModel, match=r"does not fit Net.*head.weight is \(1, 5, 1, 1\), wanted \(1, 6"
    ):
        load("net.toml")
    with pytest.raises(BadModel, match=r"missing \['weight', 'bias'\], not wanted \['body"):
        fill(torch.nn.Linear(2, 2), folder / "net.safetensors")


def test_weights_alone_are_no_model_and_the_message_says_how_to_make_one(folder):
    save_file(weights(folder), folder / "net.safetensors")
    with pytest.raises(BadModel, match=r"weights alone are no model: write a FILE.toml"):
        load("net.safetensors")


def test_a_step_and_a_site_that_name_one_function_mean_the_same_function(folder):
    (folder / "stages.py").write_text(
        STAGES
        + textwrap.dedent("""
        def both(image):
            return tokens(relevance(image))
    """)
    )
    (folder / "one.toml").write_text(
        "[model]\ngrid = [4, 4]\nimage_size = [64, 64]\n"
        '[[step]]\nname = "tokens"\nrun = "stages.py:both"\n'
        '[[site]]\nname = "balancing.relevance"\nfunction = "stages.py:relevance"\n'
    )
    assert load("one.toml").role("relevance").name == "balancing.relevance"
