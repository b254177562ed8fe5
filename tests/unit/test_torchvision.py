"""timm and open_clip work beside a torchvision whose compiled operators do not load."""

import subprocess
import sys
import textwrap

from arrcoc_verify import _torchvision

TINY_CLIP = """
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, CustomTextCLIP

    sizes = dict(
        embed_dim=16,
        vision_cfg=CLIPVisionCfg(layers=1, width=32, head_width=16, patch_size=16, image_size=32),
        text_cfg=CLIPTextCfg(context_length=8, vocab_size=64, width=32, heads=2, layers=1),
    )
    text = torch.zeros(1, 8, dtype=torch.long)
"""


def run(code: str) -> str:
    """Return what `code` printed in a fresh process, since an import cannot be undone here."""
    code = "from arrcoc_verify._torchvision import prepare\nprepare()\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_tiny_timm_transformer_runs_after_prepare():
    printed = run("""
        import timm, torch

        model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=3)
        print(tuple(model.eval()(torch.zeros(1, 3, 32, 32)).shape))
    """)

    assert "(1, 3)" == printed


def test_both_kinds_of_open_clip_model_run_after_prepare():
    printed = run(
        "import torch\n"
        + textwrap.dedent(TINY_CLIP)
        + textwrap.dedent("""
            for kind in (CLIP, CustomTextCLIP):
                model = kind(**sizes).eval()
                image, words = model(torch.zeros(1, 3, 32, 32), text)[:2]
                print(tuple(image.shape), tuple(words.shape))
        """)
    )

    assert "(1, 16) (1, 16)\n(1, 16) (1, 16)" == printed


def test_calling_an_operator_works_or_says_which_build_is_missing():
    printed = run("""
        import torch, torchvision
        from arrcoc_verify.errors import UsageError

        try:
            kept = torch.ops.torchvision.nms(torch.ones(1, 4), torch.ones(1), 0.5)
            print("works" if torchvision.extension._has_ops() else "silent", kept.tolist())
        except UsageError as error:
            print("refused" if not torchvision.extension._has_ops() else "broken", error)
    """)

    assert printed.startswith(("works [0]", "refused torchvision::nms needs"))


def test_prepare_defines_nothing_where_the_extension_loads(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(_torchvision, "_extension_loads", lambda folder: True)
    monkeypatch.setattr(_torchvision, "_define_missing", lambda: 1 / 0)

    _torchvision.prepare.__wrapped__()


def test_prepare_does_nothing_once_torchvision_is_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", object())
    monkeypatch.setattr(_torchvision, "_extension_loads", lambda folder: 1 / 0)

    _torchvision.prepare.__wrapped__()


def test_an_extension_that_is_absent_does_not_load(tmp_path):
    assert _torchvision._extension_loads(tmp_path) is False


def test_an_extension_that_is_no_library_does_not_load(tmp_path):
    (tmp_path / "_C.so").write_text("not a library")

    assert _torchvision._extension_loads(tmp_path) is False
