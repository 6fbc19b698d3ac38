"""Standard input as audio: raw samples, or the samples of a WAV header's file."""

import io
import select
import sys
import threading
import wave
from collections.abc import Iterator

import numpy as np

from espnet_mtkd.errors import DataError

POLL = 0.1  # s between two looks at whether Ctrl-C was pressed
LATE_READS = 32  # after Ctrl-C, of what waits in the pipe
SOX_TYPES = {  # first bytes -> sox's name of what they begin
    b"fLaC": "flac",
    b"FORM": "aiff",
    b".snd": "au",
    b"NIST": "sph",
}
OTHER_TYPES = {  # what sox does not read in each build
    b"OggS": "Ogg",
    b"caff": "CAF",
    b"RF64": "RF64",
    b"RIFX": "big-endian WAV",
    b"ID3\2": "MP3",
    b"ID3\3": "MP3",
    b"ID3\4": "MP3",
    b"\x1a\x45\xdf\xa3": "Matroska",
}


class ByteStream:
    """Bytes of standard input, until it ends or `stop` is set.

    Args:
        stop: ends reading; what had come by then is kept.
    """

    def __init__(self, stop: threading.Event):
        self.stop = stop
        self.pending = b""  # was read ahead
        self.num_late = 0  # reads after `stop`
        self.file = sys.stdin.buffer
        try:
            self.file.fileno()
        except OSError:  # no file of the system: it never waits
            self.can_wait = False
        else:
            self.can_wait = True
            self.file = getattr(self.file, "raw", self.file)

    def read(self, size: int) -> bytes:
        """So many bytes; fewer only at the end."""
        data, self.pending = self.pending[:size], self.pending[size:]
        while len(data) < size and self._wait():
            more = self.file.read(size - len(data))
            if not more:
                break
            data += more
        return data

    def _wait(self) -> bool:
        """Until there is something to read; whether it is to be read."""
        if not self.can_wait:
            return True
        while not select.select([self.file], [], [], POLL)[0]:
            if self.stop.is_set():
                return False
        # Who writes may not have stopped.
        self.num_late += self.stop.is_set()
        return self.num_late <= LATE_READS

    def peek(self, size: int) -> bytes:
        """What the next `read` begins with."""
        self.pending = self.read(size)
        return self.pending


def read_stdin(
    sample_rate: int, chunk_size: int, stop: threading.Event
) -> Iterator[np.ndarray]:
    """Chunks of 16-bit little-endian PCM, one channel, from standard input.

    Args:
        sample_rate: the model's, in Hz.
        chunk_size: samples; the last chunk may be shorter.
        stop: ends the audio with what had come; an unfinished sample is dropped then.

    Raises:
        DataError: the input ends within a sample, or begins as a file does that is no
            WAV of this form.
    """
    stream = ByteStream(stop)
    num_left = skip_header(stream, sample_rate)
    while data := stream.read(int(min(2 * chunk_size, num_left))):
        num_left -= len(data)
        even = len(data) // 2 * 2
        if even:
            yield np.frombuffer(data[:even], "<i2")
        if stop.is_set() and len(data) < 2 * chunk_size:
            return
        if even < len(data):
            raise DataError(
                "standard input: expected 16-bit samples, found an odd number of bytes"
            )


def skip_header(stream: ByteStream, sample_rate: int) -> float:
    """Read over the header of a WAV file, if there is one.

    Returns:
        Bytes of samples that follow; infinity where only the end of the input says.

    Raises:
        DataError: a header that says something else than the model hears.
    """
    head = stream.peek(12)
    is_wav = head[:4] == b"RIFF" and head[8:12] == b"WAVE"
    kind = "wav" if is_wav else SOX_TYPES.get(head[:4])
    if kind:
        convert = f"sox -t {kind} - -t raw -r {sample_rate} -c 1 -b 16 -e signed -"
    else:
        kind = OTHER_TYPES.get(head[:4])
        convert = f"ffmpeg -i - -f s16le -ac 1 -ar {sample_rate} -"
    remedy = f"give the file by its name, or convert it: `{convert} | ... -`"
    if not kind:
        return np.inf
    if not is_wav:
        raise DataError(
            "standard input: expected raw 16-bit samples or a WAV file, found the "
            f"beginning of a file of another kind, {kind}: {remedy}"
        )
    # The size of the whole, which a program that writes to a pipe does not know.
    stream.pending = b"RIFF\xff\xff\xff\xffWAVE" + stream.pending[12:]
    try:
        # It reads the header alone, and needs no file in which one can go back.
        header = wave.open(Forward(stream), "rb").getparams()
    except (wave.Error, EOFError) as e:
        raise DataError(
            "standard input: expected a WAV file of 16-bit samples, found another "
            f"({e or 'it ends too early'}): {remedy}"
        ) from e
    found = 8 * header.sampwidth, header.nchannels, header.framerate
    if found != (16, 1, sample_rate):
        raise DataError(
            f"standard input: expected a WAV file of 16 bits, 1 channel, {sample_rate} "
            "Hz, found {} bits, {} channel(s), {} Hz: {}".format(*found, remedy)
        )
    num_bytes = 2 * header.nframes
    # Nor does it know that of the samples: it says 0, or the largest.
    return num_bytes if 0 < num_bytes < 0xFFFFFFF0 else np.inf


class Forward(io.RawIOBase):
    """A `ByteStream` as a file that can only be read on."""

    def __init__(self, stream: ByteStream):
        super().__init__()
        self.stream = stream

    def read(self, size: int = -1) -> bytes:
        """As of files."""
        return self.stream.read(size)
