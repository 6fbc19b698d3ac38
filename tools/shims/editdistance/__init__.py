"""The function that ESPnet calls of `editdistance`, on top of rapidfuzz.

`editdistance` has no wheels for current Pythons and its build needs a C++ compiler;
ESPnet imports it for a transducer with a CTC weight, to report the character error rate
of the CTC branch. Only found where the real package is not installed.
"""

from rapidfuzz.distance import Levenshtein


def eval(a, b) -> int:  # noqa: A001, the name of the original
    """Levenshtein distance between two sequences of hashable items."""
    return Levenshtein.distance(a, b)
