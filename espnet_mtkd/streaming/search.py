"""Frame-synchronous transducer searches that keep what they found between calls.

A search takes one encoder frame of each of several streams; joint network and decoder
(prediction network) run once over all their hypotheses.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch

from espnet_mtkd.errors import ConfigError


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


class Search:
    """What greedy and beam search share.

    Args:
        decoder: `TransducerDecoder` of an ESPnet model.
        joint_network: of the same model.
        max_symbols_per_frame: tokens that one encoder frame may emit (default:
            `usual_max_symbols`).

    Attributes:
        usual_max_symbols: see above; of what a frame costs it is a factor.
    """

    usual_max_symbols = 4

    def __init__(
        self, decoder, joint_network, max_symbols_per_frame: int | None = None
    ):
        self.decoder = decoder
        self.joint_network = joint_network
        self.max_symbols_per_frame = max_symbols_per_frame or self.usual_max_symbols
        decoder.set_device(joint_network.lin_out.weight.device)

    def project(self, encoded_TD: torch.Tensor) -> torch.Tensor:
        """Encoder frames (T, D) as `step` takes them: (T, J)."""
        return self.joint_network.lin_enc(encoded_TD)

    def init_beam(self) -> list[Hypothesis]:
        """The empty hypothesis."""
        state = self.decoder.init_state(1)
        ((decoder_J, state),) = self._predict([self.decoder.blank_id], [state])
        return [Hypothesis((), (), 0.0, decoder_J, state)]

    def _predict(self, labels: list[int], states: list) -> list[tuple]:
        """Projected decoder output (J,) and state after one more label each."""
        decoder = self.decoder
        weight = decoder.embed.weight
        labels_B1 = torch.tensor(labels, device=weight.device)[:, None]
        # ESPnet makes states of float32, whatever the model's type.
        state = tuple(
            x if x is None else x.to(weight.dtype)
            for x in decoder.create_batch_states(None, states)
        )
        out_B1D, state = decoder.rnn_forward(decoder.embed(labels_B1), state)
        out_BJ = self.joint_network.lin_dec(out_B1D[:, 0])
        return [
            (out_J, decoder.select_state(state, i)) for i, out_J in enumerate(out_BJ)
        ]

    def _join(self, encoded_BJ: torch.Tensor, hyps: list[Hypothesis]) -> torch.Tensor:
        """Logits (B, V) of each hypothesis in the frame beside it."""
        decoder_BJ = torch.stack([hyp.decoder_J for hyp in hyps])
        return self.joint_network(encoded_BJ, decoder_BJ, no_projection=True)


class GreedySearch(Search):
    """The best token of each frame; ESPnet's, which emits one a frame at most, if
    `max_symbols_per_frame` is 1."""

    def step(
        self,
        beams: list[list[Hypothesis]],
        encoded_SJ: torch.Tensor,
        frames: list[int],
    ) -> list[list[Hypothesis]]:
        """Go one frame further in each stream.

        Args:
            beams: one hypothesis for each of S streams.
            encoded_SJ: one projected encoder frame (S, J) of each.
            frames: their numbers.

        Returns:
            New beams; the old ones are not changed.
        """
        hyps = [hyp for (hyp,) in beams]
        active = list(range(len(hyps)))
        for _ in range(self.max_symbols_per_frame):
            logits_BV = self._join(encoded_SJ[active], [hyps[i] for i in active])
            best = logits_BV.argmax(-1).tolist()
            rows = [n for n, token in enumerate(best) if token != self.decoder.blank_id]
            if not rows:
                break
            tokens = [best[n] for n in rows]
            active = [active[n] for n in rows]
            scores = logits_BV[rows].log_softmax(-1).amax(-1).tolist()
            predicted = self._predict(tokens, [hyps[i].state for i in active])
            for i, token, score, new in zip(
                active, tokens, scores, predicted, strict=True
            ):
                hyps[i] = extend(hyps[i], token, frames[i], hyps[i].score + score, *new)
        return [[hyp] for hyp in hyps]


class BeamSearch(Search):
    """What the beam searches share.

    Args:
        beam_size: hypotheses that stay after each frame (`DefaultSearch`: at least).
    """

    def __init__(self, *args, beam_size: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.beam_size = beam_size


class TimeSyncSearch(BeamSearch):
    """Time-synchronous decoding (TSD; Saon et al., 2020,
    https://ieeexplore.ieee.org/document/9053040), ESPnet's `search_type: tsd` with
    `max_sym_exp` = `max_symbols_per_frame` + 1.
    """

    def step(
        self,
        beams: list[list[Hypothesis]],
        encoded_SJ: torch.Tensor,
        frames: list[int],
    ) -> list[list[Hypothesis]]:
        """Go one frame further in each stream; as in `GreedySearch`."""
        blank = self.decoder.blank_id
        kept = [{} for _ in beams]  # tokens -> hypothesis that leaves the frame
        for num_symbols in range(self.max_symbols_per_frame + 1):
            hyps = [hyp for beam in beams for hyp in beam]
            sizes = [len(beam) for beam in beams]
            index = [s for s, size in enumerate(sizes) for _ in range(size)]
            logp_BV = self._join(encoded_SJ[index], hyps).log_softmax(-1).double()
            blanks = logp_BV[:, blank].tolist()
            for s, hyp, score in zip(index, hyps, blanks, strict=True):
                merge(kept[s], hyp, hyp.score + score)
            if num_symbols == self.max_symbols_per_frame:
                break
            logp_BV[:, blank] = -torch.inf
            scores_B = torch.tensor([hyp.score for hyp in hyps]).to(logp_BV)
            grown = []  # (stream, hypothesis, token, score)
            for s, total_CV in enumerate((scores_B[:, None] + logp_BV).split(sizes)):
                num_tokens = total_CV.size(1)
                num = min(self.beam_size, len(total_CV) * (num_tokens - 1))
                top = total_CV.flatten().topk(num)
                for score, i in zip(
                    top.values.tolist(), top.indices.tolist(), strict=True
                ):
                    row, token = divmod(i, num_tokens)
                    grown.append((s, beams[s][row], token, score))
            predicted = self._predict(
                [token for _, _, token, _ in grown], [hyp.state for _, hyp, *_ in grown]
            )
            beams = [[] for _ in beams]
            for (s, hyp, token, score), new in zip(grown, predicted, strict=True):
                beams[s].append(extend(hyp, token, frames[s], score, *new))
        return [
            sorted(hyps.values(), key=lambda hyp: hyp.score, reverse=True)[
                : self.beam_size
            ]
            for hyps in kept
        ]


class DefaultSearch(BeamSearch):
    """Best-first beam search in each frame (Graves, 2012, https://arxiv.org/abs/1211.3711,
    without its prefix sums), ESPnet's `search_type: default`.

    Hypotheses of a frame are expanded in the order of their scores, until `beam_size`
    of those that leave it are better than all that are still to be expanded. So a frame
    in which nothing is said costs little, and one may emit many tokens: ESPnet's search
    has no limit, here it only bounds the time that a broken model takes.
    """

    usual_max_symbols = 32

    def step(
        self,
        beams: list[list[Hypothesis]],
        encoded_SJ: torch.Tensor,
        frames: list[int],
    ) -> list[list[Hypothesis]]:
        """Go one frame further in each stream; as in `GreedySearch`."""
        blank = self.decoder.blank_id
        # To be expanded: (score, hypothesis, its next token, tokens of this frame)
        waiting = [[(hyp.score, hyp, None, 0) for hyp in beam] for beam in beams]
        kept = [[] for _ in beams]
        active = list(range(len(beams)))
        while active:
            taken = []
            for s in active:
                best = max(range(len(waiting[s])), key=lambda i: waiting[s][i][0])
                taken.append(waiting[s].pop(best))
            grown = [n for n, (_, _, token, _) in enumerate(taken) if token is not None]
            hyps = [hyp for _, hyp, _, _ in taken]
            if grown:
                predicted = self._predict(
                    [taken[n][2] for n in grown], [hyps[n].state for n in grown]
                )
                for n, new in zip(grown, predicted, strict=True):
                    score, hyp, token, _ = taken[n]
                    hyps[n] = extend(hyp, token, frames[active[n]], score, *new)
            logp_BV = self._join(encoded_SJ[active], hyps).log_softmax(-1)
            blanks = logp_BV[:, blank].tolist()
            logp_BV[:, blank] = -torch.inf
            top = logp_BV.topk(min(self.beam_size, logp_BV.size(1) - 1))
            scores, tokens = top.values.tolist(), top.indices.tolist()
            going_on = []
            for n, s in enumerate(active):
                hyp, num_symbols = hyps[n], taken[n][3]
                kept[s].append(replace(hyp, score=hyp.score + blanks[n]))
                if num_symbols < self.max_symbols_per_frame:
                    waiting[s] += [
                        (hyp.score + score, hyp, token, num_symbols + 1)
                        for score, token in zip(scores[n], tokens[n], strict=True)
                    ]
                bar = max((score for score, *_ in waiting[s]), default=-torch.inf)
                safe = [hyp for hyp in kept[s] if hyp.score > bar]
                if len(safe) < self.beam_size and waiting[s]:
                    going_on.append(s)
                else:
                    kept[s] = sorted(safe, key=lambda hyp: hyp.score, reverse=True)
            active = going_on
        return kept


SEARCHES = {"greedy": GreedySearch, "tsd": TimeSyncSearch, "default": DefaultSearch}


def build_search(
    search_type: str,
    decoder,
    joint_network,
    beam_size: int,
    max_symbols_per_frame: int | None,
) -> Search:
    """The search of that name.

    Raises:
        ConfigError: an unknown name, a number below 1, or a beam for greedy search.
    """
    if search_type not in SEARCHES:
        raise ConfigError(
            f"search_type: expected one of {', '.join(SEARCHES)}, found '{search_type}'"
        )
    if max_symbols_per_frame is not None and max_symbols_per_frame < 1:
        raise ConfigError(
            f"max_symbols_per_frame: expected at least 1, found {max_symbols_per_frame}"
        )
    if beam_size < 1:
        raise ConfigError(f"beam_size: expected at least 1, found {beam_size}")
    if search_type == "greedy":
        return GreedySearch(decoder, joint_network, max_symbols_per_frame)
    return SEARCHES[search_type](
        decoder, joint_network, max_symbols_per_frame, beam_size=beam_size
    )


def extend(
    hyp: Hypothesis, token: int, frame: int, score: float, decoder_J, state
) -> Hypothesis:
    """A hypothesis with one more token."""
    return Hypothesis(
        (*hyp.tokens, token), (*hyp.frames, frame), score, decoder_J, state
    )


def merge(kept: dict, hyp: Hypothesis, score: float) -> None:
    """Add a hypothesis; of two with the same tokens, scores add up and the better's
    frames stay."""
    other = kept.get(hyp.tokens)
    frames = hyp.frames
    if other is not None:
        if other.score > score:
            frames = other.frames
        score = float(np.logaddexp(other.score, score))
    kept[hyp.tokens] = Hypothesis(hyp.tokens, frames, score, hyp.decoder_J, hyp.state)


def sort_beam(beam: list[Hypothesis]) -> list[Hypothesis]:
    """Best first, by normalised score."""
    return sorted(beam, key=lambda hyp: hyp.normalized_score, reverse=True)


def count_stable(beam: list[Hypothesis]) -> int:
    """Tokens that all hypotheses begin with: no later audio can change them."""
    count = 0
    for tokens in zip(*(hyp.tokens for hyp in beam), strict=False):
        if len(set(tokens)) > 1:
            break
        count += 1
    return count
