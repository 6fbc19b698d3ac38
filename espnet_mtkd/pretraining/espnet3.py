"""Stage 1 under ESPnet3's trainer: what its config names beside `MTKDTask`.

ESPnet3 builds the model by its `task:` key. It hands no utterance ids to the model, by
which stored targets are found, and knows no step before the first epoch, in which
targets are standardised. The classes here do both (examples/espnet3).
"""

from pathlib import Path

import lightning
import soundfile
from espnet2.train.collate_fn import CommonCollateFn
from espnet3.components.data.base_dataset import BaseDataset
from espnet3.contract import Field

from espnet_mtkd.data.kaldi import read_wav_scp
from espnet_mtkd.pretraining.trainer import fit_standardizers


class Dataset(BaseDataset):
    """Audio of a Kaldi directory; ESPnet3 finds it by the name of this module.

    Its indices are utterance ids, which ESPnet3 then uses as they are; had it numbers,
    ESPnet3 would call the first utterance of every set "0". Training and validation set
    need ids of their own where their targets are stored.

    Args:
        data_dir: directory with wav.scp, whose entries are audio files at 16 kHz.

    Raises:
        DataError: see `read_wav_scp`.
    """

    fields = (Field("speech", "audio"),)

    def __init__(self, data_dir: str):
        self.paths = read_wav_scp(Path(data_dir) / "wav.scp")

    def __len__(self):
        return len(self.paths)

    def __iter__(self):
        return iter(self.paths)

    def __getitem__(self, utt_id: str):
        return {"speech": soundfile.read(self.paths[utt_id], dtype="float32")[0]}


class CollateFn(CommonCollateFn):
    """ESPnet's, which hands the utterance ids to the model too, as `utt_id`."""

    def __call__(self, data):
        """[(utterance id, {name: array}), ...] -> (ids, batch with the ids in it)."""
        utt_ids, batch = super().__call__(data)
        return utt_ids, {**batch, "utt_id": utt_ids}


class FitTargets(lightning.Callback):
    """Sets the targets' statistics before the first epoch, as `MTKDTrainer` does."""

    def on_fit_start(self, trainer, pl_module):
        """Lightning's hook; nothing to do where a checkpoint brought them.

        Raises:
            NonFiniteError: see `fit_standardizers`.
        """
        model = pl_module.model
        if not model.objective.is_standardized:
            batches = pl_module.train_dataloader()
            fit_standardizers(model, batches, str(pl_module.device))
