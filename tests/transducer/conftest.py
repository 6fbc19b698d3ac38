"""What the tests of transcripts share."""

import pytest
from tiny_whisper import build_model, save_ct2


@pytest.fixture(scope="session")
def whisper(tmp_path_factory):
    """A directory that CTranslate2 reads, and the `transformers` model of it."""
    pytest.importorskip("ctranslate2")
    folder = tmp_path_factory.mktemp("ct2") / "whisper_tiny"
    folder.mkdir()
    model = build_model()
    save_ct2(model, folder)
    return folder, model
