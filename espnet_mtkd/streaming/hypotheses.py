"""Hypotheses of a transducer search, and what is asked of lists of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch


@dataclass(slots=True)
class Hypothesis:
    """A token sequence, of one segment of one stream.

    Attributes:
        tokens: ids, without blanks.
        frames: encoder frame, from the segment's beginning, that emitted each token.
        score: log probability, not normalised by length.
        decoder_J: decoder output after `tokens`, projected for the joint network.
        state: decoder state after `tokens`.
    """

    tokens: tuple[int, ...]
    frames: tuple[int, ...]
    score: float
    decoder_J: torch.Tensor
    state: tuple

    @property
    def normalized_score(self) -> float:
        """Log probability by length, the initial blank counted, as ESPnet does."""
        return self.score / (len(self.tokens) + 1)


class Branch(NamedTuple):
    """A hypothesis and the token that it goes on with, which the decoder has not seen.

    Attributes:
        stream: its number among those of the frame.
        hyp: without the token.
        token: its id; None: the hypothesis goes on as it is.
        score: log probability with the token.
    """

    stream: int
    hyp: Hypothesis
    token: int | None
    score: float


def merge(kept: dict, hyp: Hypothesis, score: float) -> None:
    """Add a hypothesis; of two with the same tokens, scores add up and the better's
    frames stay.

    Args:
        kept: tokens -> hypothesis; changed in place.
        hyp: is not changed.
        score: in place of its own.
    """
    other = kept.get(hyp.tokens)
    frames = hyp.frames
    if other is not None:
        if other.score > score:
            frames = other.frames
        score = float(np.logaddexp(other.score, score))
    kept[hyp.tokens] = Hypothesis(hyp.tokens, frames, score, hyp.decoder_J, hyp.state)


def best_first(hyps) -> list[Hypothesis]:
    """Sorted by score, as it is."""
    return sorted(hyps, key=lambda hyp: hyp.score, reverse=True)


def sort_beam(beam: list[Hypothesis]) -> list[Hypothesis]:
    """Best first, by normalised score."""
    return sorted(beam, key=lambda hyp: hyp.normalized_score, reverse=True)


def distinct(
    hyps: list[Hypothesis], to_text: Callable[[Hypothesis], str]
) -> list[tuple[str, float]]:
    """Text and score of hypotheses, of those with one text the first.

    The search `default` keeps alignments of one token sequence apart, as ESPnet's does.
    """
    scores = {}
    for hyp in hyps:
        scores.setdefault(to_text(hyp), hyp.score)
    return list(scores.items())


def count_stable(beam: list[Hypothesis]) -> int:
    """Tokens that all hypotheses begin with: no later audio can change them."""
    count = 0
    for tokens in zip(*(hyp.tokens for hyp in beam), strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
