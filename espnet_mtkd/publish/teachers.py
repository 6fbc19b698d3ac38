"""What is known of a teacher: its name on the Hub, its licence, what it was trained on.

Licences are those that the Hub's model cards state, looked up in November 2026. They
are a help for whoever publishes, not legal advice; what is not clear says so.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.publish.licences import any_licence

UNKNOWN = "unknown: check"
NON_COMMERCIAL = re.compile(r"(^|[-_ ])(nc|non-?commercial)([-_ ]|$)", re.I)


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a teacher comes from.

    Attributes:
        hub_id: model id on the Hub; None where it is not known.
        licence: identifier that its card on the Hub states, or `UNKNOWN`.
        note: what else is known of the licence.
        is_supervised: trained on transcribed speech.
    """

    hub_id: str | None = None
    licence: str = UNKNOWN
    note: str = ""
    is_supervised: bool = False

    @property
    def is_non_commercial(self) -> bool:
        """Whether the licence forbids commercial use by its name."""
        return bool(NON_COMMERCIAL.search(self.licence))


_FAIRSEQ = "MIT in fairseq"
_UNISPEECH = (
    "the Hub's card names no licence and links that of microsoft/UniSpeech, "
    "CC BY-SA 3.0; microsoft/unilm, which released the weights, has MIT"
)
_WHISPER = "MIT at openai/whisper"


def _apache(hub_id: str) -> Origin:
    return Origin(hub_id, "apache-2.0", _FAIRSEQ)


def _unispeech(hub_id: str) -> Origin:
    return Origin(hub_id, UNKNOWN, _UNISPEECH)


# s3prl's name of an upstream -> what it loads
UPSTREAMS = {
    "hubert": _apache("facebook/hubert-base-ls960"),
    "hubert_base": _apache("facebook/hubert-base-ls960"),
    "hubert_large_ll60k": _apache("facebook/hubert-large-ll60k"),
    "wav2vec2": _apache("facebook/wav2vec2-base"),
    "wav2vec2_base_960": _apache("facebook/wav2vec2-base"),
    "wav2vec2_large_960": _apache("facebook/wav2vec2-large"),
    "wav2vec2_large_ll60k": _apache("facebook/wav2vec2-large-lv60"),
    "wav2vec2_large_lv60_cv_swbd_fsh": _apache("facebook/wav2vec2-large-robust"),
    "wav2vec2_large_voxpopuli_100k": Origin(
        "facebook/wav2vec2-large-100k-voxpopuli", "cc-by-nc-4.0"
    ),
    "xlsr_53": _apache("facebook/wav2vec2-large-xlsr-53"),
    "xls_r_300m": _apache("facebook/wav2vec2-xls-r-300m"),
    "xls_r_1b": _apache("facebook/wav2vec2-xls-r-1b"),
    "xls_r_2b": _apache("facebook/wav2vec2-xls-r-2b"),
    "data2vec": _apache("facebook/data2vec-audio-base"),
    "data2vec_base_960": _apache("facebook/data2vec-audio-base"),
    "data2vec_large_ll60k": _apache("facebook/data2vec-audio-large"),
    "wavlm": _unispeech("microsoft/wavlm-base"),
    "wavlm_base": _unispeech("microsoft/wavlm-base"),
    "wavlm_base_plus": _unispeech("microsoft/wavlm-base-plus"),
    "wavlm_large": _unispeech("microsoft/wavlm-large"),
    "unispeech_sat": _unispeech("microsoft/unispeech-sat-base"),
    "unispeech_sat_base": _unispeech("microsoft/unispeech-sat-base"),
    "unispeech_sat_base_plus": _unispeech("microsoft/unispeech-sat-base-plus"),
    "unispeech_sat_large": _unispeech("microsoft/unispeech-sat-large"),
    "distilhubert": Origin("ntu-spml/distilhubert", "apache-2.0"),
    "distilhubert_base": Origin("ntu-spml/distilhubert", "apache-2.0"),
    # through hf_wav2vec2_custom
    "mms_300m": Origin("facebook/mms-300m", "cc-by-nc-4.0"),
    "mms_1b": Origin("facebook/mms-1b", "cc-by-nc-4.0"),
    **{
        f"whisper_{size.replace('.', '_').replace('-', '_')}": Origin(
            f"openai/whisper-{size}", "apache-2.0", _WHISPER, is_supervised=True
        )
        for size in (
            *("tiny", "tiny.en", "base", "base.en", "small", "small.en"),
            *("medium", "medium.en", "large", "large-v2", "large-v3"),
        )
    },
}
BY_HUB_ID = {origin.hub_id: origin for origin in UPSTREAMS.values()}
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_origin(upstream: str, path_or_url: str | None = None) -> Origin:
    """Look up a teacher.

    Args:
        upstream: s3prl's name, or one of our `whisper*` names.
        path_or_url: checkpoint, where one was given; for `hf_*_custom` a model id on
            the Hub. Of a path the last part is looked up among the names:
            `whisper_base` is what mtkd_fetch_whisper calls its directory.

    Returns:
        What is known; licence `UNKNOWN` where nothing is.
    """
    if upstream == "espnet_local":
        return Origin(is_supervised=True)
    if path_or_url is None:
        return UPSTREAMS.get(upstream, Origin())
    if upstream.startswith("hf_") and HUB_ID.fullmatch(path_or_url):
        return BY_HUB_ID.get(path_or_url, Origin(hub_id=path_or_url))
    if path_or_url in BY_HUB_ID:
        return BY_HUB_ID[path_or_url]
    name = re.sub(r"\W", "_", Path(path_or_url).name.removesuffix(".pt"))
    # A name that another architecture's loader reads is not that model.
    family = upstream.partition("_")[0]
    return UPSTREAMS.get(name, Origin()) if name.startswith(family) else Origin()


def parse_corrections(flags: Sequence[str]) -> dict[str, Origin]:
    """What a user says of teachers: `NAME=HUB_ID,LICENCE` each; both may be `unknown`.

    Raises:
        ConfigError: a value of another form, or a licence that nobody knows.
    """
    found = {}
    for flag in flags:
        match = re.fullmatch(r"(\w+)=([^,=]+),([^,=]+)", flag)
        if match is None:
            raise ConfigError(
                "--teacher: expected NAME=HUB_ID,LICENCE, e.g. "
                f"wavlm=microsoft/wavlm-large,mit, found '{flag}'"
            )
        licence = any_licence(match[3], f"--teacher {match[1]}")
        is_known = match[2] != "unknown"
        licence = UNKNOWN if licence == "unknown" else licence
        found[match[1]] = Origin(match[2] if is_known else None, licence)
    return found
