"""Teachers' files from a server that breaks off, changes its mind, or has no TLS."""

import http.server
import os
import re
import subprocess
import sys
import threading

import builders
import numpy as np
import pytest

from espnet_mtkd.errors import ConfigError, DataError, DiskError
from espnet_mtkd.teachers import download as module
from espnet_mtkd.teachers.download import check_url, download

CONTENT = np.random.default_rng(0).bytes(3_000_000)


class Server(http.server.ThreadingHTTPServer):
    """Of one file; stands for the network.

    Attributes:
        content, etag: what it has.
        cuts: of the next answers each, the bytes after which it breaks off.
        without: names of headers that it leaves out.
        asked: `Range` of each request.
        is_chunked: whether it sends chunks.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content, self.etag = CONTENT, '"one"'
        self.cuts, self.asked, self.without = [], [], ()
        self.is_chunked = False
        self.url = f"http://127.0.0.1:{self.server_port}/model.pt"


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append(asked)
        begin = 0
        if asked and self.headers.get("If-Range") == server.etag:
            begin = int(re.match(r"bytes=(\d+)-", asked)[1])
        if begin > len(server.content):
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = server.content[begin:]
        self.send_response(206 if begin else 200)
        for name, value in (
            ("Content-Length", str(len(body))),
            ("ETag", server.etag),
            ("Connection", "close"),
        ):
            if name not in server.without:
                self.send_header(name, value)
        if server.is_chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else len(body)
        if server.is_chunked:
            self.wfile.write(f"{len(body):x}\r\n".encode())
        self.wfile.write(body[:cut])
        if server.is_chunked and cut >= len(body):
            self.wfile.write(b"\r\n0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def names(folder):
    return {x.name for x in folder.iterdir()} - {"model.pt.lock"}


def test_a_file_comes_whole_and_is_not_fetched_twice(server, tmp_path):
    path = tmp_path / "new folder/model.pt"
    for _ in range(2):
        download(path, server.url)
    assert path.read_bytes() == CONTENT and len(server.asked) == 1
    assert names(path.parent) == {"model.pt"}


def test_a_file_is_fetched_anew_where_that_is_asked_for(server, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")
    os.utime(path, (0, 0))
    download(path, server.url, refresh=True)
    assert path.read_bytes() == CONTENT
    download(path, server.url, refresh=True)  # another process has just done so
    assert len(server.asked) == 1


def test_a_connection_that_breaks_off_is_gone_on_with(server, tmp_path):
    server.cuts = [1_000_000, 500_000]
    download(tmp_path / "model.pt", server.url)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    first, second, third = server.asked
    assert first is None and second == "bytes=1000000-" and third == "bytes=1500000-"
    assert names(tmp_path) == {"model.pt"}


@pytest.mark.remedy(
    "run the same command again when the network is back", "cannot be downloaded"
)
def test_what_never_comes_to_its_end_has_no_name(server, tmp_path):
    server.cuts = [500_000, *[0] * 10]
    with pytest.raises(DataError, match="cannot be downloaded"):
        download(tmp_path / "model.pt", server.url)
    assert names(tmp_path) == {".model.pt.part", ".model.pt.part.etag"}
    server.cuts = []
    download(tmp_path / "model.pt", server.url)  # the network is back
    assert (tmp_path / "model.pt").read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=500000-"
    assert names(tmp_path) == {"model.pt"}


@pytest.mark.parametrize("what", ["another file", "no tag", "a longer part"])
def test_a_part_of_another_file_is_not_gone_on_with(server, tmp_path, what):
    server.cuts = [500_000, *[0] * 10]
    if what == "no tag":
        server.without = ("ETag",)
    with pytest.raises(DataError):
        download(tmp_path / "model.pt", server.url)
    server.cuts = []
    if what == "another file":
        server.content, server.etag = CONTENT[::-1], '"two"'
    elif what == "a longer part":
        (tmp_path / ".model.pt.part").write_bytes(bytes(len(CONTENT) + 1))
    download(tmp_path / "model.pt", server.url)
    assert (tmp_path / "model.pt").read_bytes() == server.content


def test_a_server_that_says_no_length_is_not_believed(server, tmp_path):
    server.without = ("Content-Length",)
    with pytest.raises(DataError, match="does not say how long it is"):
        download(tmp_path / "model.pt", server.url)
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.parametrize("cut", [False, True])
def test_chunks_say_where_they_end(server, tmp_path, cut):
    server.without, server.is_chunked = ("Content-Length",), True
    server.cuts = [700_000] if cut else []
    download(tmp_path / "model.pt", server.url)
    assert (tmp_path / "model.pt").read_bytes() == CONTENT


def test_nobody_answers(server, tmp_path):
    with pytest.raises(DataError, match="cannot be downloaded"):
        download(tmp_path / "model.pt", "http://127.0.0.1:9/model.pt")
    assert not (tmp_path / "model.pt").exists()


@pytest.mark.remedy("expected an https address")
def test_an_address_without_tls(tmp_path):
    with pytest.raises(ConfigError, match="expected an https address.* its checksum"):
        download(tmp_path / "model.pt", "http://example.org/model.pt")
    for url in ("ftp://example.org/x", "file:///etc/passwd", "http://localhost.org/x"):
        with pytest.raises(ConfigError, match="https"):
            check_url(url)
    check_url("https://example.org/x")
    path = tmp_path / "downloaded.pt"  # by hand, and its path is given
    path.write_bytes(b"x")
    download(path, "https://example.org/x")


def test_a_folder_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match="Not a directory|File exists"):
        download(tmp_path / "file/model.pt", server.url)


BY_S3PRL = """
import sys
from pathlib import Path
from espnet_mtkd.teachers import download
from espnet_mtkd.teachers.hub import import_s3prl_hub
import_s3prl_hub()
from s3prl.util import download as theirs
from s3prl.upstream.hubert import hubconf
theirs.set_dir(sys.argv[2])
download.PAUSE = 0.0
print(hubconf._urls_to_filepaths(sys.argv[1], refresh=False))
"""


@pytest.mark.parametrize("ends", [False, True])
def test_s3prls_own_downloads_are_these(server, tmp_path, ends):
    """Which would take a broken one for whole: its last bytes are missing."""
    server.cuts = [len(CONTENT) - 10, *[0] * (0 if ends else 10)]
    command = [sys.executable, "-c", BY_S3PRL, server.url, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=builders.ROOT)
    whole = [x for x in tmp_path.glob("[0-9a-f]*.model.pt")]
    if ends:
        assert done.returncode == 0, done.stderr
        assert whole[0].read_bytes() == CONTENT
    else:
        assert done.returncode != 0 and "cannot be downloaded" in done.stderr
        assert whole == []
