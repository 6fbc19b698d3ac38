"""A stand-in for the Hugging Face Hub, which cannot be had without network.

It answers the calls that an upload and a download by huggingface_hub make (Xet switched
off), keeps what was committed in memory, and has faults on demand. That the real Hub
answers alike is what its client, which is the real one, expects; no test here shows it.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

TOKEN = "hf_stub"
LARGE = (".pth", ".safetensors", ".npz", ".png")  # as the Hub's .gitattributes has them


class Hub:
    """What is on the stub.

    Attributes:
        repos: `user/name` -> list of commits, each path -> content.
        blobs: sha256 -> content, of large files.
        faults: pattern of "<method> <path>" -> status to answer, "drop" the connection,
            or "lose" the answer after the work was done.
        calls: "<method> <path>" of each request.
        created: what was asked for when a repository was made.
        private: names of the repositories that are.
        cuts: of the next downloads each, the bytes after which it breaks off.
        ranges: `Range` of each download.
    """

    def __init__(self, url: str):
        self.url = url
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.blobs: dict[str, bytes] = {}
        self.faults: dict[str, int | str] = {}
        self.calls: list[str] = []
        self.created: list[dict] = []
        self.private: set[str] = set()
        self.cuts: list[int] = []
        self.ranges: list[str | None] = []

    def sha(self, repo: str) -> str:
        """Name of the last commit."""
        return hashlib.sha1(f"{repo} {len(self.repos[repo])}".encode()).hexdigest()

    def files(self, repo: str) -> dict[str, bytes]:
        """Content of the last commit."""
        return self.repos[repo][-1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    cut: int | None = None

    def log_message(self, *args):
        pass

    def answer(self, status: int, content=None, headers=()):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: self.cut])
            self.close_connection = self.cut is not None

    def handle_request(self):
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = f"{self.command} {path}"
        self.hub.calls.append(call)
        faults = [f for p, f in self.hub.faults.items() if re.search(p, call)]
        if isinstance(fault := faults[0] if faults else None, int):
            return self.answer(fault, {"error": f"told to answer {fault}"})
        if fault == "lose":
            self.answer = lambda *args, **kwargs: None
        if fault != "drop":
            self.work(call, body)
        if fault is not None:
            self.close_connection = True  # without a word

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def work(self, call: str, body: bytes) -> None:
        hub = self.hub
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token != TOKEN and not re.search("resolve|lfs-store", call):
            message = "Invalid credentials in Authorization header"
            return self.answer(401, {"error": message}, {"X-Error-Message": message})
        for pattern, method in self.routes.items():
            if match := re.fullmatch(pattern, call):
                repo = match.groupdict().get("repo")
                if repo is not None and repo not in hub.repos:
                    missing = {"X-Error-Code": "RepoNotFound"}
                    return self.answer(404, {"error": "Not found"}, missing)
                return method(self, body, **match.groupdict())
        return self.answer(404, {"error": f"the stub knows no {call}"})

    def whoami(self, body):
        self.answer(200, {"name": "user", "type": "user", "auth": {"type": "access"}})

    def create(self, body):
        asked = json.loads(body)
        self.hub.created.append(asked)
        repo = f"{asked['organization'] or 'user'}/{asked['name']}"
        if repo in self.hub.repos:
            return self.answer(409, {"error": "You already created this model repo"})
        self.hub.repos[repo] = [{".gitattributes": b""}]
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(repo)
        self.answer(200, {"url": f"{self.hub.url}/{repo}"})

    def info(self, body, repo, revision=None):
        siblings = [{"rfilename": x} for x in self.hub.files(repo)]
        content = {"id": repo, "sha": self.hub.sha(repo), "siblings": siblings}
        content["private"] = repo in self.hub.private
        self.answer(200, content)

    def validate(self, body):
        if "language: no-such-language" in json.loads(body)["content"]:
            error = {"message": '"language" must be one of ...'}
            return self.answer(400, {"errors": [error], "warnings": []})
        self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, body, repo):
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for f in json.loads(body)["files"]
        ]
        self.answer(200, {"files": files})

    def batch(self, body, repo):
        objects = [
            {**o, "actions": {"upload": {"href": f"{self.hub.url}/lfs-store"}}}
            for o in json.loads(body)["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def store(self, body):
        self.hub.blobs[hashlib.sha256(body).hexdigest()] = body
        self.answer(200, {})

    def commit(self, body, repo):
        lines = [json.loads(line) for line in body.splitlines()]
        parent = lines[0]["value"].get("parentCommit")
        if parent not in (None, self.hub.sha(repo)):
            return self.answer(412, {"error": "A commit has happened since"})
        files = dict(self.hub.files(repo))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        self.hub.repos[repo].append(files)
        sha = self.hub.sha(repo)
        url = f"{self.hub.url}/{repo}/commit/{sha}"
        self.answer(200, {"commitUrl": url, "commitOid": sha, "success": True})

    def tree(self, body, repo):
        self.answer(
            200,
            [
                {
                    "type": "file",
                    "path": path,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for path, data in self.hub.files(repo).items()
            ],
        )

    def resolve(self, body, repo, path):
        data = self.hub.files(repo).get(path)
        if data is None:
            missing = {"X-Error-Code": "EntryNotFound"}
            return self.answer(404, {"error": "Entry not found"}, missing)
        headers = {
            "X-Repo-Commit": self.hub.sha(repo),
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
        }
        asked = self.headers.get("Range")
        status, begin = 200, 0
        if asked:
            status, begin = 206, int(re.match(r"bytes=(\d+)-", asked)[1])
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        if self.command == "GET":
            self.hub.ranges.append(asked)
            if self.hub.cuts:
                self.cut = self.hub.cuts.pop(0)
        self.answer(status, data[begin:], headers)

    routes = {
        "GET /api/whoami-v2": whoami,
        "POST /api/repos/create": create,
        "POST /api/validate-yaml": validate,
        r"GET /api/models/(?P<repo>[^/]+/[^/]+)(/revision/(?P<revision>\w+))?": info,
        r"POST /api/models/(?P<repo>[^/]+/[^/]+)/preupload/main": preupload,
        r"POST /(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch": batch,
        "PUT /lfs-store": store,
        r"POST /api/models/(?P<repo>[^/]+/[^/]+)/commit/main": commit,
        r"GET /api/models/(?P<repo>[^/]+/[^/]+)/tree/\w+": tree,
        r"(GET|HEAD) /(?P<repo>[^/]+/[^/]+)/resolve/\w+/(?P<path>.+)": resolve,
    }


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """A stub that listens on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = type("Handler", (_Handler,), {"hub": hub})
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def as_the_hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A fresh stub, which huggingface_hub of this process takes for the Hub."""
    import huggingface_hub
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import _http

    for name in [x for x in os.environ if x.startswith(("HF_", "HUGGING_FACE_"))]:
        monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    # The client waits between its tries.
    waits = SimpleNamespace(sleep=lambda seconds: None)
    for module in (_http, file_download):
        patched = SimpleNamespace(**{**vars(time), **vars(waits)})
        monkeypatch.setattr(module, "time", patched)
    with serve() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        where = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", where)
        huggingface_hub.utils.close_session()
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
    huggingface_hub.utils.close_session()
