"""Print results as they come."""

import sys

from espnet_mtkd.streaming.sessions import Session
from espnet_mtkd.streaming.stream import Segment


class LivePrinter:
    """Final text to standard output; stable part | rest to standard error.

    Called as `show` of `sessions.decode`.

    Args:
        show_partial: whether segments that go on are printed too.
    """

    def __init__(self, show_partial: bool):
        self.show_partial = show_partial
        self._shown: dict[str, str] = {}  # utterance id -> text of its last result

    def __call__(self, session: Session, segments: list[Segment]) -> None:
        """Print what is new in a result."""
        for segment in segments:
            if segment.is_final:
                text = segment.text.strip()
                if text:
                    at = f"{segment.begin_ms / 1000:.2f}-{segment.end_ms / 1000:.2f}"
                    print(f"{session.utt} {at} {text}", flush=True)
            elif self.show_partial and segment.text != self._shown.get(session.utt, ""):
                rest = segment.text[len(segment.stable_text) :]
                print(
                    f"{session.heard_ms / 1000:8.2f} s  {segment.stable_text} | {rest}",
                    file=sys.stderr,
                )
            if self.show_partial:
                self._shown[session.utt] = segment.text
