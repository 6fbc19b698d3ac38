"""Which transcripts a recogniser has made up: filters, each with a reason.

Whisper writes fluent sentences over silence and noise, or one phrase again and again.
Signs of it: text that zip shrinks far (Whisper's own test, arXiv 2212.04356, section
4.5), more or fewer letters than the time allows, two searches that disagree, tokens of
low probability.
"""

import dataclasses
import math
import zlib

from rapidfuzz.distance import Levenshtein

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.transducer.pseudo import NOT_CONFIDENT, PseudoLabel, count_repeats
from espnet_mtkd.transducer.recogniser import Hypothesis
from espnet_mtkd.transducer.writing import Writing


@dataclasses.dataclass(frozen=True)
class InventionFilters:
    """What a recogniser's transcript has to be.

    Attributes:
        min_confidence: exp of the tokens' mean log-probability, 0 to 1.
        min_agreement: 1 - words that greedy and beam search have differently : words of
            the longer, 0 to 1.
        max_no_speech: probability of silence, 0 to 1.
        max_compression: bytes : bytes after zlib.
        max_repeats: of a word or phrase in a row.
        min_chars_per_second, max_chars_per_second: letters for the length of the audio.

    Raises:
        ConfigError: a value that means nothing.
    """

    min_confidence: float = 0.5
    min_agreement: float = 0.8
    max_no_speech: float = 0.6
    max_compression: float = 2.4
    max_repeats: int = 3
    min_chars_per_second: float = 0.5
    max_chars_per_second: float = 25.0

    def __post_init__(self):
        """Refuse values that mean nothing."""
        for name in ("min_confidence", "min_agreement", "max_no_speech"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"--{name}: expected 0 to 1, found {value}")
        if not self.max_compression > 0:
            raise ConfigError(
                f"--max_compression: expected above 0, found {self.max_compression}"
            )
        if self.max_repeats < 1:
            raise ConfigError(
                f"--max_repeats: expected from 1, found {self.max_repeats}"
            )
        if not 0 <= self.min_chars_per_second < self.max_chars_per_second:
            raise ConfigError(
                "--min_chars_per_second: expected from 0, below "
                f"--max_chars_per_second {self.max_chars_per_second}, found "
                f"{self.min_chars_per_second}"
            )


def compression(text: str) -> float:
    """How far zlib shrinks a text: bytes before : after."""
    raw = text.encode()
    return len(raw) / len(zlib.compress(raw))


def agreement(a: str, b: str) -> float:
    """1 - word edits between two texts : words of the longer; 1 of two empty ones."""
    a, b = a.split(), b.split()
    return 1 - Levenshtein.distance(a, b) / max(len(a), len(b), 1)


def judge_hypothesis(
    utt: str,
    hypothesis: Hypothesis,
    seconds: float,
    writing: Writing,
    filters: InventionFilters,
) -> PseudoLabel:
    """A transcript in the wanted writing, with the reason that it is not used.

    Args:
        utt: utterance id.
        hypothesis: of its audio.
        seconds: of that.
        writing: of the training set.
        filters: what is kept.
    """
    text, problem = writing.write(hypothesis.text)
    letters = sum(map(len, text.split()))
    confidence = math.exp(min(0.0, hypothesis.logp))
    both = agreement(text, writing.write(hypothesis.greedy)[0])
    reason = None
    if not text:
        reason = "empty"
    elif problem:
        reason = problem
    elif letters < filters.min_chars_per_second * seconds:
        reason = "few letters a second"
    elif letters > filters.max_chars_per_second * seconds:
        reason = "many letters a second"
    elif count_repeats(text.split()) > filters.max_repeats:
        reason = "repeats itself"
    elif compression(text) > filters.max_compression:
        reason = "says little in many words"
    elif hypothesis.no_speech > filters.max_no_speech:
        reason = "perhaps no speech"
    elif both < filters.min_agreement:
        reason = "two searches disagree"
    elif confidence < filters.min_confidence:
        reason = NOT_CONFIDENT
    return PseudoLabel(utt, text, seconds, letters, confidence, reason)
