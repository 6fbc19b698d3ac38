"""Files of teachers from the web: whole or not there, and by TLS alone.

Stands in for `s3prl.util.download._download`, which takes what a broken connection has
left for the whole file (its `read` returns no bytes at the end of either).
"""

import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import requests
import urllib3
from filelock import FileLock

from espnet_mtkd.errors import ConfigError, DataError, path_error
from espnet_mtkd.files import sync_folder

ATTEMPTS = 5
PATIENCE = 30.0  # s without a byte
PAUSE = 0.5  # s before another try, the second time twice
BROKEN = (
    *(requests.ConnectionError, requests.Timeout),
    requests.exceptions.ChunkedEncodingError,
)
CHUNK = 1 << 20  # bytes
OWN_HOSTS = ("localhost", "127.0.0.1", "::1")  # between which and us nobody stands


class Interrupted(Exception):
    """The connection ended before the file did."""


def download(path: Path, url: str, refresh: bool = False, new_enough_secs: float = 2.0):
    """Fetch a file, unless it is there.

    What an earlier try has left beside it is continued, if the server still has the
    same file.

    Args:
        path: where it goes.
        url: `https://...`
        refresh: fetch it anew, unless it is younger than `new_enough_secs`.

    Raises:
        ConfigError: a URL without TLS.
        DataError: it cannot be had, or not to its end.
        DiskError: no space.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if path.is_file() and not (
                refresh and time.time() - path.stat().st_mtime > new_enough_secs
            ):
                return
            _fetch(path, url)
    except requests.RequestException as e:  # (which are OSErrors)
        raise DataError(_message(url, e)) from e
    except OSError as e:
        known = path_error(e, path)
        if known is None:
            raise
        raise known from e


def _message(url: str, reason) -> str:
    text = (str(reason).strip() or type(reason).__name__).splitlines()[0][:200]
    return (
        f"{url}: cannot be downloaded ({text}): run the same command again when the "
        "network is back; what is there is kept"
    )


def _fetch(path: Path, url: str) -> None:
    part = path.with_name(f".{path.name}.part")
    tag = path.with_name(f".{path.name}.part.etag")  # of the file that it is a part of
    for attempt in range(1, ATTEMPTS + 1):
        try:
            _fetch_rest(url, part, tag)
            break
        except (Interrupted, *BROKEN) as e:
            if attempt == ATTEMPTS:
                raise DataError(_message(url, e)) from e
            time.sleep(PAUSE * attempt)
    os.replace(part, path)
    tag.unlink(missing_ok=True)
    sync_folder(path.parent)


def _fetch_rest(url: str, part: Path, tag: Path) -> None:
    """Get what is missing of a part; all of it where the server has another file."""
    check_url(url)
    headers = {"Accept-Encoding": "identity"}
    if part.is_file() and tag.is_file():
        headers["Range"] = f"bytes={part.stat().st_size}-"
        headers["If-Range"] = tag.read_text(encoding="latin-1")
    with requests.get(url, headers=headers, stream=True, timeout=PATIENCE) as answer:
        for step in (*answer.history, answer):
            check_url(step.url)
        if answer.status_code == 416:  # the part is longer than the file
            part.unlink()
            raise Interrupted("what was there is no part of it")
        answer.raise_for_status()
        begin = part.stat().st_size if answer.status_code == 206 else 0
        length = answer.headers.get("Content-Length", "")
        # (Of one sent in chunks, requests sees that the last is missing.)
        is_chunked = answer.headers.get("Transfer-Encoding", "") == "chunked"
        if not length.isdecimal() and not is_chunked:
            raise requests.RequestException("the server does not say how long it is")
        if begin == 0:
            tag.unlink(missing_ok=True)
            etag = answer.headers.get("ETag", "")
            if etag and not etag.startswith("W/"):
                tag.write_text(etag, encoding="latin-1")
        with open(part, "ab" if begin else "wb") as file:
            try:
                # As it comes: what waits for a whole chunk loses it at a break.
                while data := answer.raw.read1(CHUNK):
                    file.write(data)
            except urllib3.exceptions.HTTPError as e:
                raise Interrupted(str(e)) from e
            finally:
                file.flush()
                os.fsync(file.fileno())
    found = part.stat().st_size
    if not is_chunked and found != begin + int(length):
        raise Interrupted(f"{found} of {begin + int(length)} bytes")


def check_url(url: str) -> None:
    """Refuse an address at which anybody on the way could put another file.

    Raises:
        ConfigError: no TLS.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and parts.hostname not in OWN_HOSTS:
        raise ConfigError(
            f"{url}: expected an https address: download the file yourself, compare "
            "its checksum, and give its path (upstream: ..._local, path_or_url)"
        )
