"""Frame-synchronous transducer searches that keep what they found between calls.

A search takes one encoder frame of each of several streams; joint network and decoder
(prediction network) run once over all their hypotheses.
"""

import heapq
import itertools
import logging
import numbers
from bisect import bisect_left, bisect_right, insort
from dataclasses import replace

import torch

from espnet_mtkd.errors import ConfigError
from espnet_mtkd.streaming.hypotheses import Branch, Hypothesis, best_first, merge

# Of `DefaultSearch`, in a frame, for each hypothesis of the beam. Models with random
# weights that say a blank in most frames expand ten at most.
MAX_EXPANSIONS = 32


class NonFiniteLogits(Exception):
    """A frame gave logits that are NaN or infinite, so nothing can be searched in it.

    Attributes:
        streams: where this happened, by their numbers among those of the frame.
    """

    def __init__(self, streams: set[int]):
        super().__init__(f"streams {sorted(streams)}")
        self.streams = streams


class Search:
    """What the searches share: the networks, run over hypotheses of many streams.

    Args:
        decoder: `TransducerDecoder` of an ESPnet model.
        joint_network: of the same model.
        beam_size: hypotheses that stay after each frame (`DefaultSearch`: at least;
            `GreedySearch`: one, whatever this says).
        max_symbols_per_frame: tokens that one encoder frame may emit (default:
            `usual_max_symbols`).

    Attributes:
        usual_max_symbols: see above; of what a frame costs it is a factor.
    """

    usual_max_symbols = 4

    def __init__(
        self,
        decoder,
        joint_network,
        beam_size: int,
        max_symbols_per_frame: int | None = None,
    ):
        self.decoder = decoder
        self.joint_network = joint_network
        self.beam_size = beam_size
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

    def step(
        self,
        beams: list[list[Hypothesis]],
        encoded_SJ: torch.Tensor,
        frames: list[int],
    ) -> list[list[Hypothesis]]:
        """Go one frame further in each stream.

        Args:
            beams: what `init_beam` or the frame before gave, for each of S streams.
            encoded_SJ: one projected encoder frame (S, J) of each.
            frames: their numbers, from each segment's beginning.

        Returns:
            New beams; the old ones are not changed.

        Raises:
            NonFiniteLogits: in some of the streams; of the others nothing is lost, as
                the frame can be searched again without these.
        """
        raise NotImplementedError

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

    def _grow(self, branches: list[Branch], frames: list[int]) -> list[Hypothesis]:
        """Hypotheses with the tokens of their branches; `frames` as in `step`."""
        new = [branch for branch in branches if branch.token is not None]
        if not new:
            return [branch.hyp for branch in branches]
        predicted = iter(
            self._predict(
                [branch.token for branch in new], [branch.hyp.state for branch in new]
            )
        )
        return [
            hyp
            if token is None
            else Hypothesis(
                (*hyp.tokens, token),
                (*hyp.frames, frames[stream]),
                score,
                *next(predicted),
            )
            for stream, hyp, token, score in branches
        ]

    def _join(
        self, encoded_SJ: torch.Tensor, index: list[int], hyps: list[Hypothesis]
    ) -> torch.Tensor:
        """Logits (B, V) of each hypothesis in the frame of its stream.

        Args:
            encoded_SJ: as in `step`.
            index: the stream of each of B hypotheses.
            hyps: B.

        Raises:
            NonFiniteLogits: see there.
        """
        decoder_BJ = torch.stack([hyp.decoder_J for hyp in hyps])
        logits_BV = self.joint_network(
            encoded_SJ[index], decoder_BJ, no_projection=True
        )
        is_finite = logits_BV.isfinite().all(-1).tolist()
        if not all(is_finite):
            bad = {s for s, good in zip(index, is_finite, strict=True) if not good}
            raise NonFiniteLogits(bad)
        return logits_BV

    def _score(self, encoded_SJ, index, hyps) -> tuple:
        """Log probabilities of each hypothesis' blank (a list of B), and of its tokens
        (B, V), where the blank's place says -inf; arguments as of `_join`."""
        logp_BV = self._join(encoded_SJ, index, hyps).log_softmax(-1)
        blanks = logp_BV[:, self.decoder.blank_id].tolist()
        logp_BV[:, self.decoder.blank_id] = -torch.inf
        return blanks, logp_BV


class GreedySearch(Search):
    """The best token of each frame; ESPnet's, which emits one a frame at most, if
    `max_symbols_per_frame` is 1."""

    def step(self, beams, encoded_SJ, frames):
        """As `Search.step`, with beams of one hypothesis."""
        hyps = [hyp for (hyp,) in beams]
        active = list(range(len(hyps)))
        for _ in range(self.max_symbols_per_frame):
            logits_BV = self._join(encoded_SJ, active, [hyps[s] for s in active])
            best = logits_BV.argmax(-1).tolist()
            rows = [n for n, token in enumerate(best) if token != self.decoder.blank_id]
            if not rows:
                break
            active = [active[n] for n in rows]
            scores = logits_BV[rows].log_softmax(-1).amax(-1).tolist()
            branches = [
                Branch(s, hyps[s], best[n], hyps[s].score + score)
                for s, n, score in zip(active, rows, scores, strict=True)
            ]
            for s, hyp in zip(active, self._grow(branches, frames), strict=True):
                hyps[s] = hyp
        return [[hyp] for hyp in hyps]


class TimeSyncSearch(Search):
    """Time-synchronous decoding (TSD; Saon et al., 2020,
    https://ieeexplore.ieee.org/document/9053040), ESPnet's `search_type: tsd` with
    `max_sym_exp` = `max_symbols_per_frame` + 1.
    """

    def step(self, beams, encoded_SJ, frames):
        """As `Search.step`."""
        kept = [{} for _ in beams]  # tokens -> hypothesis that leaves the frame
        for num_symbols in range(self.max_symbols_per_frame + 1):
            hyps = [hyp for beam in beams for hyp in beam]
            sizes = [len(beam) for beam in beams]
            index = [s for s, size in enumerate(sizes) for _ in range(size)]
            blanks, logp_BV = self._score(encoded_SJ, index, hyps)
            for s, hyp, score in zip(index, hyps, blanks, strict=True):
                merge(kept[s], hyp, hyp.score + score)
            if num_symbols == self.max_symbols_per_frame:
                break
            logp_BV = logp_BV.double()
            scores_B = torch.tensor([hyp.score for hyp in hyps]).to(logp_BV)
            branches = []
            for s, total_CV in enumerate((scores_B[:, None] + logp_BV).split(sizes)):
                num_tokens = total_CV.size(1)
                num = min(self.beam_size, len(total_CV) * (num_tokens - 1))
                top = total_CV.flatten().topk(num)
                for score, i in zip(
                    top.values.tolist(), top.indices.tolist(), strict=True
                ):
                    row, token = divmod(i, num_tokens)
                    branches.append(Branch(s, beams[s][row], token, score))
            beams = [[] for _ in beams]
            for branch, hyp in zip(branches, self._grow(branches, frames), strict=True):
                beams[branch.stream].append(hyp)
        return [best_first(hyps.values())[: self.beam_size] for hyps in kept]


class DefaultSearch(Search):
    """Best-first beam search in each frame (Graves, 2012, https://arxiv.org/abs/1211.3711,
    without its prefix sums), ESPnet's `search_type: default`.

    Hypotheses of a frame are expanded in the order of their scores, until `beam_size`
    of those that leave it are better than all that are still to be expanded. So a frame
    in which nothing is said costs little, and one may emit many tokens. ESPnet's search
    has no limit; here two bound what a frame of a broken model costs: the tokens of one
    hypothesis (`max_symbols_per_frame`), and the hypotheses that are expanded,
    `MAX_EXPANSIONS` for each of the beam. At the second the best so far leave the
    frame, and the log says so once.
    """

    usual_max_symbols = 32

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._has_warned = False

    def step(self, beams, encoded_SJ, frames):
        """As `Search.step`."""
        order = itertools.count()  # of equal scores the first comes first
        waiting = [  # to be expanded: heaps of (-score, order, branch)
            [(-hyp.score, next(order), Branch(s, hyp, None, hyp.score)) for hyp in beam]
            for s, beam in enumerate(beams)
        ]
        for heap in waiting:
            heapq.heapify(heap)
        kept = [[] for _ in beams]
        scores_kept = [[] for _ in beams]  # ascending
        active = list(range(len(beams)))
        num_rounds, max_rounds = 0, MAX_EXPANSIONS * self.beam_size
        while active:
            num_rounds += 1
            branches = [heapq.heappop(waiting[s])[-1] for s in active]
            hyps = self._grow(branches, frames)
            blanks, logp_BV = self._score(encoded_SJ, active, hyps)
            top = logp_BV.topk(min(self.beam_size, logp_BV.size(1) - 1))
            scores, tokens = top.values.tolist(), top.indices.tolist()
            going_on = []
            for n, (s, hyp) in enumerate(zip(active, hyps, strict=True)):
                kept[s].append(replace(hyp, score=hyp.score + blanks[n]))
                insort(scores_kept[s], kept[s][-1].score)
                num_symbols = len(hyp.frames) - bisect_left(hyp.frames, frames[s])
                if num_symbols < self.max_symbols_per_frame:
                    for score, token in zip(scores[n], tokens[n], strict=True):
                        total = hyp.score + score
                        branch = Branch(s, hyp, token, total)
                        heapq.heappush(waiting[s], (-total, next(order), branch))
                bar = -waiting[s][0][0] if waiting[s] else -torch.inf
                num_safe = len(kept[s]) - bisect_right(scores_kept[s], bar)
                if num_safe >= self.beam_size or not waiting[s]:
                    kept[s] = best_first(kept[s])[: num_safe or None]
                elif num_rounds == max_rounds:
                    kept[s] = best_first(kept[s])[: self.beam_size]
                    self._warn(max_rounds)
                else:
                    going_on.append(s)
            active = going_on
        return kept

    def _warn(self, num_expanded: int) -> None:
        """Say once that a frame was left before its search had ended."""
        if not self._has_warned:
            logging.warning(
                "search_type default: a frame was left after %d expanded hypotheses, "
                "with the best so far: this model hardly ever says blank. Is it "
                "trained? greedy and tsd take less time",
                num_expanded,
            )
        self._has_warned = True


SEARCHES = {"greedy": GreedySearch, "tsd": TimeSyncSearch, "default": DefaultSearch}


def build_search(
    search_type: str,
    decoder,
    joint_network,
    beam_size: int,
    max_symbols_per_frame: int | None,
) -> Search:
    """The search of that name; arguments as for `Search`.

    Raises:
        ConfigError: an unknown name, or a number that is not whole or below 1.
    """
    if search_type not in SEARCHES:
        raise ConfigError(
            f"search_type: expected one of {', '.join(SEARCHES)}, found '{search_type}'"
        )
    if max_symbols_per_frame is not None:
        check_count("max_symbols_per_frame", max_symbols_per_frame)
    check_count("beam_size", beam_size)
    return SEARCHES[search_type](
        decoder, joint_network, beam_size, max_symbols_per_frame
    )


def check_count(name: str, value: int) -> None:
    """Refuse what is no number of things.

    Raises:
        ConfigError: naming what was expected.
    """
    if not isinstance(value, numbers.Integral) or value < 1:
        raise ConfigError(
            f"{name}: expected a whole number of at least 1, found {value}"
        )
