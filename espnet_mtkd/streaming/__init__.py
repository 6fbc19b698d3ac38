"""Streaming decoding of ESPnet transducers: docs/streaming.md.

Audio in as it comes, text out: frontend, encoder and search carry their state on.
Works on stock ESPnet models: nothing of teachers, targets or training.
"""

from espnet_mtkd.streaming.inference import Speech2TextStreamingTransducer
from espnet_mtkd.streaming.stream import Segment, Stream, StreamError

__all__ = ["Segment", "Speech2TextStreamingTransducer", "Stream", "StreamError"]
