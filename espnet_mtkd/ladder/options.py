"""Options of mtkd.sh: their names, and which of them decide the first stages."""

import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from espnet_mtkd.errors import ConfigError

# Headings of options.txt whose options the pre-training depends on,
SHARED = ("Data and tokens, as in asr.sh", "Stage 1: ")
# those of other headings that it depends on too,
ALSO = {"encoder", "asr_config", "feats_normalize"}
# and those of these headings that it does not depend on.
TOKENS = {"local_data_opts", "lang", "token_type", "nbpe", "bpemode", "test_sets"}
LATER = {"mtkd_tag", "mtkd_exp", "extract_nj", "pretrained_checkpoint"}

# The formatted audio in --dumpdir is of one value of each of these.
OF_A_DUMP = ("audio_format", "fs", "channel")
OF_A_DUMP += ("min_wav_duration", "max_wav_duration", "cut_unlabelled")

# Set by the ladder itself, for every row.
OWN = {"encoder", "seed", "expdir", "python"}
OWN |= {"mtkd_tag", "mtkd_exp", "asr_tag", "asr_exp"}
# Of a run as a whole.
OF_A_RUN = {"stage", "stop_stage", "skip_stages", "skip_data_prep", "skip_train"}
OF_A_RUN |= {"skip_eval", "skip_packing", "skip_upload_hf", "force", "dry_run"}
OF_A_RUN |= {"local_data_opts"}  # of data/, which rows share


def closest(name: str, known: Collection[str]) -> str:
    """Words for a message: the known names that are most like this one, or all."""
    found = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    if found:
        return f"the closest: {', '.join(found)}"
    return f"known: {', '.join(known)}" if len(known) < 30 else "none is like it"


class Options:
    """What mtkd.sh's table of options (`options.txt`) says.

    Attributes:
        names: of all options.
        pretraining: those that the result of stage 1's training depends on.
        data: those that stages 1 to 8 depend on.
    """

    def __init__(self, table: Path):
        heading, shared = "", set()
        self.names: dict[str, str] = {}  # -> default
        for line in table.read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                heading = line.removeprefix("#").strip()
            elif match := re.match(r"(\w+) *\| *(.*?) *\|", line):
                self.names[match[1]] = match[2]
                if heading.startswith(SHARED):
                    shared.add(match[1])
        self.pretraining = (shared | ALSO) - TOKENS - LATER
        self.data = (shared | ALSO | {"dumpdir"}) - LATER
        self.data -= {"mtkd_args", "teacher_dtype"}
        self.data -= {"train_config", "unlabelled_ratio", "feats_normalize"}

    def check_name(self, name: str, where: str) -> None:
        """Refuse what a row may not set.

        Raises:
            ConfigError: no option of mtkd.sh, or not one of a row.
        """
        if name not in self.names:
            raise ConfigError(
                f"{where}: no such option of mtkd.sh: {name} "
                f"({closest(name, self.names)})"
            )
        if name in OWN:
            raise ConfigError(f"{where}: {name}: the ladder sets it, for every row")
        if name in OF_A_RUN:
            raise ConfigError(
                f"{where}: {name} is one of a run as a whole: give it to ladder.sh"
            )


def given(words: Sequence[str], name: str, default: str = "") -> str:
    """Value of an option among words of a command line; the last one counts."""
    value = default
    for i, word in enumerate(words):
        option, equals, rest = word.partition("=")
        if option.replace("-", "_") == f"__{name}":
            value = rest if equals else "".join(words[i + 1 : i + 2])
    return value


def check_passed(words: Sequence[str]) -> None:
    """Refuse options for all rows that each row has of its own.

    Raises:
        ConfigError: naming the option, and what to do instead.
    """
    for word in words:
        if not word.startswith("--"):
            continue
        name = word.partition("=")[0].removeprefix("--").replace("-", "_")
        if name in ("encoder", "seed"):
            raise ConfigError(f"--{name}: the ladder's option is --{name}s")
        if name in OWN:
            raise ConfigError(f"--{name}: the ladder names its experiments itself")
        if name in ("asr_config", "kd_teacher_exp", "pseudo_labels", "teacher_mode"):
            raise ConfigError(
                f"--{name}: would be that of all rows, which are told apart by it: "
                "write a row with it (--rows_config), or call mtkd.sh"
            )
