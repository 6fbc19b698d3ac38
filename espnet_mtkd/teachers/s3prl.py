"""A frozen s3prl upstream as a teacher."""

import contextlib
import difflib
import hashlib
import logging
import os
from pickle import UnpicklingError

import torch
import torch.nn.functional as F

from espnet_mtkd.compat import no_code_from_files, preserved_rng
from espnet_mtkd.data.audio import SAMPLE_RATE
from espnet_mtkd.errors import ConfigError, DataError, MTKDError, name_ten
from espnet_mtkd.teachers.base import (
    TargetSpec,
    TeacherConfig,
    check_files,
    parse_teachers,
    resolve_layers,
)
from espnet_mtkd.teachers.early_stop import EarlyStop
from espnet_mtkd.teachers.hub import (
    READ,
    files_of_checkpoint,
    import_s3prl_hub,
    upstream_names,
)

TRUST = "MTKD_TRUST_CHECKPOINTS"  # environment variable: 1 lets checkpoints run code
RECEPTIVE_FIELD = 400  # samples: 25 ms, of wav2vec 2.0's convolutions and of fbank
FRAME_CENTRE = (RECEPTIVE_FIELD - 1) / 2  # of frame 0, which begins with the audio
MIN_INPUT = 800  # samples: s3prl pads shorter batches to it
MAX_EXTRA_FRAMES = 2  # that an upstream pads its sequence with, for its own purposes


def check_upstream(config: TeacherConfig, hub) -> None:
    """Refuse, before anything is loaded, what cannot work.

    Args:
        config: one teacher.
        hub: the module that `teachers.hub.import_s3prl_hub` returns.

    Raises:
        ConfigError: unknown upstream (with the closest names), a checkpoint that is
            needed but not given, or a local one that does not exist or has another
            form than the upstream reads.
    """
    names = upstream_names(hub)
    if config.upstream not in names:
        close = difflib.get_close_matches(config.upstream, names, n=5, cutoff=0.4)
        raise ConfigError(
            f"teacher '{config.name}': unknown upstream '{config.upstream}'. "
            + (f"Closest names: {', '.join(close)}. " if close else "")
            + "All names: python -m espnet_mtkd.bin.mtkd_doctor --list_upstreams"
        )
    check_files(config)
    if config.upstream in READ:
        try:
            files_of_checkpoint(config.upstream, config.path_or_url)
        except ConfigError as e:
            raise ConfigError(f"teacher '{config.name}': {e}") from e


def read_teachers(teachers) -> list[TeacherConfig]:
    """Configs of teachers, all of them checked before the first is loaded.

    Args:
        teachers: see `parse_teachers`.

    Raises:
        ConfigError: see `parse_teachers` and `check_upstream`.
    """
    configs = parse_teachers(teachers)
    hub = import_s3prl_hub()
    for config in configs:
        check_upstream(config, hub)
    return configs


class S3PRLTeacher:
    """One frozen upstream.

    Not an `nn.Module`, and holds its network where `nn.Module` does not look: so no
    teacher parameter reaches a checkpoint, an optimizer or DDP.

    Args:
        config: which upstream, which layers.

    Attributes:
        targets: list of `TargetSpec`, one per chosen layer.
        num_layers: hidden states that the upstream gives (index 0 included).
        num_parameters: of the whole upstream.
        max_samples: the longest audio that it takes, None where it has no limit.
        dtype: of its computation; may be set to another than float32, which is then
            used by autocast.

    Raises:
        ConfigError: see `check_upstream`; or a layer that the upstream has not, or a
            checkpoint that cannot be loaded.
    """

    def __init__(self, config: TeacherConfig):
        hub = import_s3prl_hub()
        check_upstream(config, hub)
        from s3prl.nn import S3PRLUpstream

        trusts = os.environ.get(TRUST) == "1"
        guard = contextlib.nullcontext() if trusts else no_code_from_files()
        with preserved_rng(), guard:
            try:
                network = S3PRLUpstream(
                    config.upstream,
                    path_or_url=config.path_or_url,
                    normalize=config.normalize,
                    extra_conf=dict(config.extra_conf),
                )
            except MTKDError as e:
                raise type(e)(f"teacher '{config.name}': {e}") from e
            except UnpicklingError as e:
                reason = (str(e).strip() or "no message").splitlines()[0][:200]
                raise ConfigError(
                    f"teacher '{config.name}': the checkpoint "
                    f"{config.path_or_url or config.upstream} is damaged, or holds "
                    "objects whose loading would run code: nothing was run "
                    f"({reason}): take it from its authors; if you trust whoever made "
                    f"it: export {TRUST}=1"
                ) from e
            except Exception as e:
                raise ConfigError(
                    f"teacher '{config.name}': s3prl could not load upstream "
                    f"'{config.upstream}'"
                    + (f" from {config.path_or_url}" if config.path_or_url else "")
                    + f": {type(e).__name__}: {e}"
                ) from e
        self.config = config
        self._network = network.eval().requires_grad_(False)
        self._device = torch.device("cpu")
        self.dtype = torch.float32
        self.num_layers = network.num_layers
        self.num_parameters = sum(p.numel() for p in network.parameters())
        self.max_samples = getattr(network.upstream, "max_samples", None)
        layers = resolve_layers(config, self.num_layers)
        frame_centre = config.frame_centre
        if frame_centre is None:
            frame_centre = getattr(network.upstream, "frame_centre", FRAME_CENTRE)
        self.targets = [
            TargetSpec(
                name=f"{config.name}_l{layer}",
                teacher=config.name,
                layer=layer,
                dim=network.hidden_sizes[layer],
                frame_shift=network.downsample_rates[layer],
                frame_centre=frame_centre,
                weight=config.weight / len(layers),
            )
            for layer in layers
        ]
        self._run = EarlyStop(
            network.upstream, self.num_layers, max(t.layer for t in self.targets)
        )
        logging.info(
            "teacher %s: upstream %s, %.1f M parameters, %d hidden states, taken: %s",
            config.name,
            config.upstream,
            self.num_parameters / 1e6,
            self.num_layers,
            ", ".join(
                f"{t.name} ({t.dim}-d, {t.frame_shift / 16:g} ms)" for t in self.targets
            ),
        )

    def check_lengths(self, name: str, lengths: dict[str, int]) -> None:
        """Refuse a data set that the teacher cannot hear, before any of it is read.

        Args:
            name: of the data set.
            lengths: utterance -> samples at 16 kHz.

        Raises:
            DataError: see `check_length`.
        """
        check_length(self, lengths.values(), [f"{name}/{utt}" for utt in lengths])

    def num_valid_frames(self, num_samples, frame_shift: int):
        """Frames that saw only real audio.

        s3prl repeats the last frame up to ceil(samples / shift), and the frames of a
        short utterance in a batch also cover its padding; both are to be masked.

        Args:
            num_samples: (B,) tensor of samples at 16 kHz.
            frame_shift: samples between frames.

        Returns:
            (B,) tensor of frames.
        """
        rule = getattr(self._network.upstream, "num_valid_frames", None)
        if rule is not None:
            return rule(num_samples)
        frames = (num_samples - RECEPTIVE_FIELD) // frame_shift + 1
        return frames.clamp(min=0)

    def count_frames(self, num_samples, frame_shift: int) -> list[int]:
        """`num_valid_frames` of many utterances, as plain numbers."""
        tensor = torch.tensor(list(num_samples), dtype=torch.long)
        return self.num_valid_frames(tensor, frame_shift).tolist()

    @torch.no_grad()
    def __call__(self, speech_BN, speech_lengths_B, utt_ids=None):
        """`embed` without gradients: what a teacher is asked for."""
        return self.embed(speech_BN, speech_lengths_B, utt_ids)

    def embed(self, speech_BN, speech_lengths_B, utt_ids=None):
        """Embeddings of a batch.

        Args:
            speech_BN: (B, N) waveforms at 16 kHz, padded.
            speech_lengths_B: (B,) samples; on the host, so that nobody waits for a GPU.
            utt_ids: unused; see `TargetMemory`.

        Returns:
            {target name: ((B, T, E) fp32, (B,) valid frames, on the host)}.

        Raises:
            DataError: audio longer than the upstream takes, naming the utterance; or
                another number of frames than its frame shift promises.
        """
        num_samples = speech_lengths_B.tolist()
        check_length(self, num_samples, utt_ids)
        if speech_BN.device != self._device:
            self._network.to(speech_BN.device)
            self._device = speech_BN.device
        self._network.eval()
        missing = max(0, MIN_INPUT - max(num_samples))
        speech_BN = F.pad(speech_BN.float(), (0, missing))
        wavs = [
            wav[: num + missing]
            for wav, num in zip(speech_BN, num_samples, strict=True)
        ]
        # The student's mixed precision is not the teacher's.
        with torch.autocast(
            speech_BN.device.type, self.dtype, enabled=self.dtype != torch.float32
        ):
            hidden = self._run(wavs)
        return {
            spec.name: self._take(hidden[spec.layer], spec, num_samples)
            for spec in self.targets
        }

    def _take(self, hidden_BTE, spec: TargetSpec, num_samples: list[int]):
        """The valid frames of one hidden state."""
        frames = self.count_frames(num_samples, spec.frame_shift)
        T = max(frames)
        expected = -(-max(MIN_INPUT, *num_samples) // spec.frame_shift)
        if not T <= hidden_BTE.size(1) <= expected + MAX_EXTRA_FRAMES:
            raise DataError(
                f"teacher '{self.config.name}' gives another number of frames than its "
                f"frame shift promises for {max(num_samples)} samples: "
                f"expected {T} to {expected}, found {hidden_BTE.size(1)}"
            )
        hidden_BTE = hidden_BTE[:, :T].float()
        if self.config.normalize:
            hidden_BTE = F.layer_norm(hidden_BTE, hidden_BTE.shape[-1:])
        return hidden_BTE, torch.tensor(frames)

    def digest(self) -> str:
        """sha256 over the weights: the same before and after training."""
        sha = hashlib.sha256()
        for key, value in sorted(self._network.state_dict().items()):
            sha.update(key.encode())
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            sha.update(raw.numpy().tobytes())
        return sha.hexdigest()


def check_length(teacher, num_samples, utt_ids=None) -> None:
    """Refuse audio that is longer than a teacher takes.

    Args:
        teacher: with `config` and `max_samples`.
        num_samples: B samples.
        utt_ids: B utterance ids, for the message.

    Raises:
        DataError: how many there are, and the first ten.
    """
    if teacher.max_samples is None:
        return
    long = [(i, num) for i, num in enumerate(num_samples) if num > teacher.max_samples]
    if long:
        names = [
            (f"number {i} of the batch" if utt_ids is None else utt_ids[i])
            + f": {num / SAMPLE_RATE:.1f} s"
            for i, num in long
        ]
        raise DataError(
            f"{len(long)} of {len(num_samples)} utterances are too long: utterance "
            f"{name_ten(names)}: the teacher '{teacher.config.name}' "
            f"({teacher.config.upstream}) hears at most "
            f"{teacher.max_samples / SAMPLE_RATE:g} s: lower --max_wav_duration, or "
            "segment the audio"
        )


class TeacherPool:
    """All teachers of a run, called as one.

    Args:
        configs: the parsed `teachers` list.
        load: makes a teacher of a config; `CachedTeacher` with its folder, or by
            default a live one.
    """

    def __init__(self, configs, load=S3PRLTeacher):
        self.teachers = [load(config) for config in configs]

    @property
    def targets(self) -> list[TargetSpec]:
        """Every target of every teacher, in order."""
        return [spec for teacher in self.teachers for spec in teacher.targets]

    def check_lengths(self, name: str, lengths: dict[str, int]) -> None:
        """See `S3PRLTeacher.check_lengths` and `CachedTeacher.check_lengths`."""
        for teacher in self.teachers:
            teacher.check_lengths(name, lengths)

    def __call__(self, speech_BN, speech_lengths_B, utt_ids=None):
        """See `S3PRLTeacher.__call__`; the dicts of all teachers in one."""
        out = {}
        for teacher in self.teachers:
            out.update(teacher(speech_BN, speech_lengths_B, utt_ids))
        return out
