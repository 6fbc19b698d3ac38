"""Who downloads the model needs ESPnet alone: it decodes as it did at home."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import builders
import hub_stub
import soundfile

from espnet_mtkd.bin.mtkd_upload import main

# Neither this package nor the loss that it brings for ESPnet.
BLOCKER = """
import importlib.abc
import sys


class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("espnet_mtkd", "warprnnt_pytorch"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


sys.meta_path.insert(0, Blocker())
"""
CHECK = """
try:
    import espnet_mtkd
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("espnet_mtkd can be imported")
assert not [x for x in sys.modules if x.startswith("espnet_mtkd")]
"""


def decode_at_home(recipe: Path, wave) -> str:
    """ESPnet on the files of the training."""
    from espnet2.bin.asr_inference import Speech2Text

    exp = recipe / "exp/asr_tiny"
    speech2text = Speech2Text(
        exp / "config.yaml", exp / "valid.loss.ave.pth", beam_size=1
    )
    return speech2text(wave)[0][0]


def test_the_cards_lines_decode_the_same_text_without_this_package(
    hub, recipe, archive, tmp_path
):
    wave = builders.speech_like(3, 5)
    soundfile.write(tmp_path / "speech.wav", wave, 16000, subtype="FLOAT")
    expected = decode_at_home(recipe, wave)
    assert len(set(expected)) > 3
    main(["--archive", str(archive), "--hf_repo", "user/tiny"])

    # ESPnet's downloader keeps what it gets beside its own files.
    import espnet_model_zoo

    site = tmp_path / "site"
    shutil.copytree(Path(espnet_model_zoo.__file__).parent, site / "espnet_model_zoo")
    card = hub.files("user/tiny")["README.md"].decode()
    load, no_loss = re.findall(r"```python\n(.*?)```", card, re.S)
    assert "user/tiny" in load
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env.update(
        PYTHONPATH=str(site),
        HF_ENDPOINT=hub.url,
        HF_TOKEN=hub_stub.TOKEN,
        HF_HOME=str(tmp_path / "hf"),
        HF_HUB_DISABLE_XET="1",
    )
    result = subprocess.run(
        [sys.executable, "-c", BLOCKER + no_loss + load + CHECK],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == expected
    downloaded = list(site.rglob("snapshots/*/exp/asr_tiny/config.yaml"))
    assert len(downloaded) == 1  # from the stub, not from the recipe
