"""Stage 1 by ESPnet3's trainer (`pip install lightning`).

    python -m espnet_mtkd.bin.mtkd_doctor --teachers teachers.yaml \\
        --data_dir data/train data/valid --out_dir exp/stats
    python run.py --stages train --training_config train_mtkd.yaml

The first looks at teachers and audio and writes the lengths by which batches are made.
exp/train_mtkd/valid.loss.ave_*best.pth:encoder:encoder is what stage 2 begins with
(--init_param of asr_train, --pretrained_model of asr.sh).
"""

from espnet3.systems.base.system import BaseSystem
from espnet3.systems.launch import launch

if __name__ == "__main__":
    launch(BaseSystem, conf_package="egs3.TEMPLATE.esp2_asr")
