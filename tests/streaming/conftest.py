"""The tiny streaming transducer that these tests decode with."""

import pytest
import streaming_models as models


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Its `config.yaml` and weights."""
    return models.build(tmp_path_factory.mktemp("streaming"))


@pytest.fixture(scope="module")
def flags(files):
    """What names it on the command line of `mtkd_asr_stream`."""
    config, weights = files
    return ["--asr_train_config", str(config), "--asr_model_file", str(weights)]
