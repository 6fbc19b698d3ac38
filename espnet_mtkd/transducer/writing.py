"""A recogniser's text in the writing of a training set.

Upper or lower case as there, without punctuation, and with no other characters. Numbers
in digits are not spelt: 1984 is read in more than one way, and a wrong word does more
harm than a missing utterance. Such a transcript is refused.
"""

import dataclasses
import re
import unicodedata

from espnet_mtkd.errors import ConfigError

CASES = ("auto", "upper", "lower", "keep")
ANNOTATION = re.compile(r"[\[({*♪]")  # [MUSIC], (laughs), *sighs*, ♪
SPOKEN_SIGNS = set("%&@#§/+=$€£°")  # that are read aloud
QUOTES = str.maketrans("’‘‛`´", "'''''")
HAS_DIGITS = "has digits"
HAS_SIGNS = "has signs that are read aloud"
IS_ANNOTATED = "an annotation"
OTHER_CHARACTERS = "characters that no transcript has"


@dataclasses.dataclass(frozen=True)
class Writing:
    """How a training set is written.

    Attributes:
        case: `upper`, `lower` or `keep`.
        characters: that may occur, the space aside; empty: all but punctuation.

    Raises:
        ConfigError: another case.
    """

    case: str = "upper"
    characters: frozenset = frozenset()

    def __post_init__(self):
        """Refuse another case."""
        if self.case not in CASES[1:]:
            raise ConfigError(
                f"--case: expected {' or '.join(CASES)}, found '{self.case}'"
            )

    @classmethod
    def like(cls, texts, case: str = "auto") -> "Writing":
        """The writing of transcripts.

        Args:
            texts: of a training set; none: all characters.
            case: `auto` sees it from the texts; upper without one.
        """
        characters = frozenset("".join(texts)) - {" "}
        if case == "auto":
            cased = [c for c in characters if c.upper() != c.lower()]
            is_upper = [c == c.upper() for c in cased]
            case = "upper" if all(is_upper) else "keep" if any(is_upper) else "lower"
        return cls(case, characters)

    def write(self, text: str) -> tuple[str, str | None]:
        """A text in this writing, and the reason for which it cannot be, or None."""
        if ANNOTATION.search(text):
            return text, IS_ANNOTATED
        text = unicodedata.normalize("NFC", text).translate(QUOTES)
        if self.case != "keep":
            text = text.upper() if self.case == "upper" else text.lower()
        text = "".join(map(self._replace, text))
        # A quotation mark and an apostrophe look the same.
        text = " ".join(w for w in (x.strip("'") for x in text.split()) if w)
        others = set(text) - self.characters - {" "} if self.characters else set()
        if any(c.isdigit() for c in text) and (others or not self.characters):
            return text, HAS_DIGITS
        if others & SPOKEN_SIGNS or (not self.characters and SPOKEN_SIGNS & set(text)):
            return text, HAS_SIGNS
        return text, OTHER_CHARACTERS if others else None

    def _replace(self, c: str) -> str:
        """A character, or what stands for it."""
        if c in self.characters or c in SPOKEN_SIGNS:
            return c
        if c == "'":
            return "" if self.characters else c
        if unicodedata.category(c)[0] in "PZC":
            return " "
        return c
