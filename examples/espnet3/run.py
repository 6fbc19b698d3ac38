"""Stage 1 by ESPnet3's trainer (`pip install lightning`), in a directory with data/:

python /path/to/examples/espnet3/run.py --stages train --training_config train_mtkd.yaml
"""

from espnet3.systems.base.system import BaseSystem
from espnet3.systems.launch import launch

if __name__ == "__main__":
    launch(BaseSystem, conf_package="egs3.TEMPLATE.esp2_asr")
