"""What the tests of ESPnet's encoders as teachers share."""

import builders
import pytest
from espnet_models import CONFIGS, build


@pytest.fixture(scope="session")
def models(tmp_path_factory, checkpoints):
    """Function: name -> (its directory, ESPnet's model)."""
    root = tmp_path_factory.mktemp("espnet")
    made = {}

    def make(name):
        if name not in made:
            if name == "over_whisper":
                whisper = checkpoints["whisper_local"]
                config = builders.teacher_transducer_config(whisper)
            else:
                config = CONFIGS[name]
            made[name] = root / name, build(root / name, config)
        return made[name]

    return make
