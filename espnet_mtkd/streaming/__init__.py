"""Streaming decoding of ESPnet transducers: docs/streaming.md."""

from espnet_mtkd.streaming.inference import Speech2TextStreamingTransducer
from espnet_mtkd.streaming.stream import Segment, Stream

__all__ = ["Segment", "Speech2TextStreamingTransducer", "Stream"]
