"""Audio without text beside labelled batches, for the kept teachers' loss alone."""

import argparse
from collections.abc import Iterator

from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.tasks.abs_task import AbsTask
from espnet2.train.collate_fn import CommonCollateFn

from espnet_mtkd.pretraining.datasets import NamedCollateFn, data_set_name
from espnet_mtkd.pretraining.mixing import MixedIterFactory

KEY = "unlabelled"  # of a batch: a list of batches of audio alone


class AudioTask(AbsTask):
    """What ESPnet has to know of audio alone to load it in batches."""

    @classmethod
    def build_preprocess_fn(cls, args: argparse.Namespace, train: bool):
        return None

    @classmethod
    def build_collate_fn(cls, args: argparse.Namespace, train: bool):
        return CommonCollateFn(float_pad_value=0.0, int_pad_value=-1)

    @classmethod
    def required_data_names(cls, train: bool = True, inference: bool = False):
        return ("speech",)

    @classmethod
    def optional_data_names(cls, train: bool = True, inference: bool = False):
        return ()


def join_unlabelled(
    labelled: AbsIterFactory,
    args: argparse.Namespace,
    stage1: argparse.Namespace,
    ratio: float,
    distributed_option,
) -> "JoinedIterFactory":
    """Put stage 1's audio without text beside the labelled batches.

    Args:
        labelled: ESPnet's factory of the training data.
        args: ESPnet's, of stage 2.
        stage1: of stage 1: which audio.
        ratio: unlabelled batches for each labelled one.
        distributed_option: ESPnet's.
    """
    factories = []
    for scp, shape in zip(
        stage1.unlabelled_wav_scp, stage1.unlabelled_shape_file, strict=True
    ):
        options = AudioTask.build_iter_options(args, distributed_option, "train")
        options.data_path_and_name_and_type = [(scp, "speech", "sound")]
        options.shape_files = [shape]
        options.num_iters_per_epoch = None
        options.collate_fn = NamedCollateFn(data_set_name(scp), options.collate_fn)
        factories.append(AudioTask.build_sequence_iter_factory(args, options, "train"))
    return JoinedIterFactory(MixedIterFactory(labelled, factories, ratio, args.seed))


class JoinedIterFactory(AbsIterFactory):
    """Gives each labelled batch the unlabelled ones that `MixedIter` puts behind it.

    So an update learns from both: gradients are clipped as one, and every parameter of
    the model has one in each step.

    Args:
        mixed: which batches, and in which order.
    """

    def __init__(self, mixed: MixedIterFactory):
        self.mixed = mixed

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> "JoinedIter":
        """See `MixedIterFactory.build_iter`."""
        return JoinedIter(self.mixed.build_iter(epoch, shuffle))


class JoinedIter:
    """One epoch: (utterance ids, batch), with a list of batches at the key `KEY`."""

    def __init__(self, mixed):
        self.mixed = mixed

    def __len__(self) -> int:
        return len(self.mixed.labelled)

    def __iter__(self) -> Iterator:
        return self.skip(0)

    def skip(self, num_batches: int) -> Iterator:
        """Iterate over what comes behind the first batches, which are not read."""
        if num_batches >= len(self):
            return iter(())
        labelled = [i for i, x in enumerate(self.mixed.sources()) if x < 0]
        return join(self.mixed.skip(labelled[num_batches]))


def join(mixed: Iterator) -> Iterator:
    """Labelled batches, each with the unlabelled ones that follow it at the key `KEY`.

    Args:
        mixed: of `MixedIter`, a labelled batch first.
    """
    waiting = None
    for utt_ids, batch in mixed:
        if not bool(batch.pop("is_unlabelled")):
            if waiting is not None:
                yield waiting
            waiting = utt_ids, {**batch, KEY: []}
        else:
            waiting[1][KEY].append({**batch, "utt_id": utt_ids})
    if waiting is not None:
        yield waiting
