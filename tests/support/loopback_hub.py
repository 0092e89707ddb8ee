"""A small Hub on the loopback device, for clients in other processes.

It speaks what huggingface_hub 2.4 asks for while repositories are pushed, pulled and listed, over real HTTP: commits,
branches, tags, pull requests, LFS uploads, tokens, private and gated repositories. Everything else is answered with 501
and kept in ``unexpected``. Faults are armed by owner and stage, and kept in ``fired`` when they happen.

A client finds it by HF_ENDPOINT; see ``LoopbackHub.environment``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import yaml

#: What a fault does. "lost": the request is carried out, its answer never arrives. "hang": no answer until the end.
FAULTS = ("500", "503", "truncated", "wrong hash", "slow", "reset", "lost", "hang")
_LARGE = (".safetensors", ".bin", ".pt")
_MAIN = "main"
_DATE = "2026-01-01T00:00:00.000Z"


@dataclass(frozen=True)
class File:
    content: bytes
    large: bool  # kept in LFS

    @property
    def oid(self) -> str:
        """What names the content: SHA-256 for a large file, else git's hash."""
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass(frozen=True)
class Commit:
    files: dict[str, File]
    message: str


@dataclass
class Repository:
    name: str  # owner/name
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)  # branches, tags and refs/pr/N

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def add(self, files: dict[str, File], message: str, ref: str) -> str:
        """Commit a whole tree. Returns its id."""
        oid = hashlib.sha1(f"{self.name} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = Commit(files, message)
        self.refs[ref] = oid
        return oid


class Fired(NamedTuple):
    owner: str
    stage: str
    kind: str


@dataclass
class Request:
    """One request, as the routes see it."""

    stage: str
    user: str | None
    values: dict[str, str]  # of the route's named groups
    query: dict[str, list[str]]
    headers: Any
    body: bytes = b""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Any, status: int = 200) -> Reply:
        return cls(json.dumps(value).encode(), status, {"Content-Type": "application/json"})


class Refusal(Exception):
    """An answer with an error. ``code`` is what huggingface_hub tells its errors by."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.reply = Reply.of({"error": message}, status)
        self.reply.headers |= {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}


Handler = Callable[["LoopbackHub", Request], Reply]
_ROUTES: list[tuple[str, re.Pattern[str], str, Handler]] = []


def route(method: str, pattern: str, stage: str) -> Callable[[Handler], Handler]:
    """Groups ``repo``, ``ref`` and ``path`` match one repository, one (quoted) revision and a path of any depth."""
    for name, text in {"repo": "[^/]+/[^/]+", "ref": "[^/]+", "path": ".+", "oid": "[0-9a-f]{64}"}.items():
        pattern = pattern.replace(f"<{name}>", f"(?P<{name}>{text})")

    def register(handler: Handler) -> Handler:
        _ROUTES.append((method, re.compile(pattern), stage, handler))
        return handler

    return register


class LoopbackHub:
    """The server and what it stores. Use it as a context manager."""

    def __init__(self, delay: float = 6.0) -> None:
        self.delay = delay  # seconds of a "slow" fault
        self.repositories: dict[str, Repository] = {}
        self.users: dict[str, str] = {}  # by token
        self.uploads: dict[tuple[str, str], bytes] = {}  # LFS objects by repository and SHA-256
        self.fired: list[Fired] = []
        self.unexpected: list[str] = []
        self.requests: list[tuple[str, str]] = []  # stage and owner, in order
        self.closing = threading.Event()
        self.lock = threading.RLock()
        self._faults: dict[tuple[str, str], list[str | None]] = {}
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """What a client process needs in its environment; ``home`` is its own HF_HOME."""
        foreign = ("HF_", "HUGGING_FACE_", "HUGGINGFACE_")
        mine = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        mine |= {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        mine |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return mine | ({} if token is None else {"HF_TOKEN": token})

    # What a test arranges and looks at

    def add_user(self, name: str) -> str:
        """A user, who may write to the repositories below their name. Returns their token."""
        token = f"hf_{hashlib.sha256(name.encode()).hexdigest()[:34]}"
        self.users[token] = name
        return token

    def add_repository(self, name: str, files: dict[str, bytes] | None = None, **options: bool) -> str:
        """A repository; ``private`` and ``gated`` are options. Returns its first commit, which holds ``files``."""
        repository = self.repositories[name] = Repository(name, **options)
        repository.add({".gitattributes": File(b"*.safetensors filter=lfs\n", large=False)}, "initial commit", _MAIN)
        return repository.refs[_MAIN] if files is None else self.commit(name, files)

    def commit(self, name: str, files: dict[str, bytes], branch: str = _MAIN) -> str:
        """Put files on a branch, as its owner would. Returns the commit."""
        repository = self.repositories[name]
        added = {path: File(content, path.endswith(_LARGE)) for path, content in files.items()}
        self.uploads |= {(name, file.oid): file.content for file in added.values() if file.large}
        return repository.add(self._tree(repository, branch).files | added, "by the owner", branch)

    def head(self, name: str, ref: str = _MAIN) -> str:
        """The commit that a branch, tag or pull request is at."""
        return self.repositories[name].refs[ref]

    def files(self, name: str, ref: str = _MAIN) -> dict[str, bytes]:
        """The files there, without the one that every repository starts with."""
        tree = self._tree(self.repositories[name], ref).files
        return {path: file.content for path, file in tree.items() if path != ".gitattributes"}

    def _tree(self, repository: Repository, ref: str) -> Commit:
        return repository.commits[repository.refs.get(ref, ref)]

    def arm(self, owner: str, stage: str, kind: str, count: int = 1, skip: int = 0) -> None:
        """Let the next ``count`` requests of that stage fail that concern ``owner``: a repository's, else the user.

        The ``skip`` requests before them pass.
        """
        if kind not in FAULTS:
            raise ValueError(f"no fault {kind!r}, only {FAULTS}")
        self._faults.setdefault((owner, stage), []).extend([None] * skip + [kind] * count)

    def take_fault(self, owner: str, stage: str) -> str | None:
        """The fault that the request at hand is to have."""
        with self.lock:
            self.requests.append((stage, owner))
            armed = self._faults.get((owner, stage))
            if not armed:
                return None
            kind = armed.pop(0)
            if kind is not None:
                self.fired.append(Fired(owner, stage, kind))
            return kind

    # What the routes ask

    def user(self, headers: Any) -> str | None:
        token = (headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.users:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return self.users.get(token)

    def find(self, request: Request) -> Repository:
        """The repository of a request, if the user may know of it."""
        repository = self.repositories.get(request.values["repo"])
        if repository is None or (repository.private and request.user != repository.owner):
            raise Refusal(401 if request.user is None else 404, "Repository not found", "RepoNotFound")
        return repository

    def find_to_write(self, request: Request) -> Repository:
        repository = self.find(request)
        if request.user != repository.owner and "create_pr" not in request.query:
            raise Refusal(403, f"{request.user or 'nobody'} has no right to write to {repository.name}")
        return repository

    def resolve(self, repository: Repository, ref: str) -> str:
        """The commit of a branch, tag, pull request or full commit id."""
        oid = repository.refs.get(ref, ref)
        if oid not in repository.commits:
            raise Refusal(404, f"Invalid rev id: {ref}", "RevisionNotFound")
        return oid


# The routes, in the order in which a push meets them


@route("POST", "/api/repos/create", "create")
def create(hub: LoopbackHub, request: Request) -> Reply:
    body = request.json
    owner = body.get("organization") or request.user
    if request.user is None or owner != request.user:
        raise Refusal(401 if request.user is None else 403, f"no right to create a repository for {owner}")
    if body.get("type", "model") != "model" or body.get("visibility", "public") not in ("public", "private"):
        raise Refusal(501, f"the loopback Hub has only models, public or private: {body}")
    name = f"{owner}/{body['name']}"
    answer = {"url": f"{hub.url}/{name}"}
    if name in hub.repositories:
        return Reply.of({**answer, "error": "You already created this model repo"}, 409)
    hub.add_repository(name, private=body.get("visibility") == "private")
    return Reply.of(answer)


@route("POST", "/api/validate-yaml", "validate yaml")
def validate_yaml(hub: LoopbackHub, request: Request) -> Reply:
    try:
        front_matter(request.json["content"])
    except yaml.YAMLError as error:
        return Reply.of({"errors": [{"message": str(error)}], "warnings": []}, 400)
    return Reply.of({"errors": [], "warnings": []})


@route("POST", "/api/models/<repo>/branch/<ref>", "branch")
def branch(hub: LoopbackHub, request: Request) -> Reply:
    repository, name = hub.find_to_write(request), request.values["ref"]
    if name in repository.refs:
        raise Refusal(409, f"branch {name} exists")
    repository.refs[name] = hub.resolve(repository, request.json.get("startingPoint", _MAIN))
    return Reply()


@route("POST", "/api/models/<repo>/tag/<ref>", "tag")
def tag(hub: LoopbackHub, request: Request) -> Reply:
    repository, name = hub.find_to_write(request), request.json["tag"]
    if name in repository.refs:
        raise Refusal(409, f"tag {name} exists")
    repository.refs[name] = hub.resolve(repository, request.values["ref"])
    return Reply()


@route("POST", "/api/models/<repo>/preupload/<ref>", "preupload")
def preupload(hub: LoopbackHub, request: Request) -> Reply:
    repository = hub.find_to_write(request)
    present = repository.commits[hub.resolve(repository, request.values["ref"])].files
    answers = []
    for wanted in request.json["files"]:
        path, old = wanted["path"], present.get(wanted["path"])
        mode = "lfs" if path.endswith(_LARGE) else "regular"
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": old and old.oid})
    return Reply.of({"files": answers})


@route("POST", r"/<repo>\.git/info/lfs/objects/batch", "lfs batch")
def lfs_batch(hub: LoopbackHub, request: Request) -> Reply:
    request.query |= {} if "ref" in request.json else {"create_pr": ["1"]}  # the client leaves it out for pull requests
    repository = hub.find_to_write(request)
    objects = []
    for wanted in request.json["objects"]:
        href = f"{hub.url}/lfs/{repository.name}/{wanted['oid']}"
        actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        stored = (repository.name, wanted["oid"]) in hub.uploads
        objects.append({"oid": wanted["oid"], "size": wanted["size"], **({} if stored else {"actions": actions})})
    return Reply.of({"transfer": "basic", "objects": objects})


@route("PUT", "/lfs/<repo>/<oid>", "lfs upload")
def lfs_upload(hub: LoopbackHub, request: Request) -> Reply:
    if hashlib.sha256(request.body).hexdigest() != request.values["oid"]:
        raise Refusal(400, "BadDigest: the content does not match its SHA-256")
    hub.uploads[request.values["repo"], request.values["oid"]] = request.body
    return Reply()


@route("POST", "/lfs/<repo>/<oid>/verify", "lfs verify")
def lfs_verify(hub: LoopbackHub, request: Request) -> Reply:
    if len(hub.uploads.get((request.values["repo"], request.json["oid"]), b"")) != request.json["size"]:
        raise Refusal(404, f"no object {request.json['oid']} of that size")
    return Reply()


@route("POST", "/api/models/<repo>/commit/<ref>", "commit")
def commit(hub: LoopbackHub, request: Request) -> Reply:
    repository, ref = hub.find_to_write(request), request.values["ref"]
    if ref not in repository.refs:
        raise Refusal(404, f"Invalid rev id: {ref}", "RevisionNotFound")
    lines = [json.loads(line) for line in request.body.splitlines()]
    files = dict(repository.commits[repository.refs[ref]].files)
    for line in lines[1:]:
        if line["key"] == "deletedFile":
            if files.pop(line["value"]["path"], None) is None:
                raise Refusal(404, f"{line['value']['path']} does not exist", "EntryNotFound")
        else:
            files |= _added(hub, repository.name, line["key"], line["value"])
    pull_request = f"refs/pr/{sum(name.startswith('refs/pr/') for name in repository.refs) + 1}"
    target = pull_request if "create_pr" in request.query else ref
    oid = repository.add(files, lines[0]["value"]["summary"], target)
    answer = {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{repository.name}/commit/{oid}"}
    if target != ref:
        answer["pullRequestUrl"] = f"{hub.url}/{repository.name}/discussions/{target.removeprefix('refs/pr/')}"
    return Reply.of(answer)


def _added(hub: LoopbackHub, name: str, key: str, value: dict[str, Any]) -> dict[str, File]:
    if key == "file":
        return {value["path"]: File(base64.b64decode(value["content"]), large=False)}
    if key == "lfsFile" and (name, value["oid"]) in hub.uploads:
        return {value["path"]: File(hub.uploads[name, value["oid"]], large=True)}
    raise Refusal(501 if key != "lfsFile" else 400, f"the loopback Hub cannot commit {key} {value['path']}")


# ... a pull, and a search


@route("HEAD", "/<repo>/resolve/<ref>/<path>", "head <path>")
@route("GET", "/<repo>/resolve/<ref>/<path>", "get <path>")
def resolve(hub: LoopbackHub, request: Request) -> Reply:
    repository, path = hub.find(request), request.values["path"]
    if repository.gated and request.user != repository.owner:
        raise Refusal(401 if request.user is None else 403, f"Access to {repository.name} is restricted", "GatedRepo")
    oid = hub.resolve(repository, request.values["ref"])
    file = repository.commits[oid].files.get(path)
    if file is None:
        raise Refusal(404, f"{path} does not exist", "EntryNotFound", **{"X-Repo-Commit": oid})
    headers = {"ETag": f'"{file.oid}"', "X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
    if file.large:
        headers |= {"X-Linked-ETag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
    start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(file.content) - 1}/{len(file.content)}"
    return Reply(file.content[start:], 206 if start else 200, headers)


@route("GET", "/api/models/<repo>", "info")
@route("GET", "/api/models/<repo>/revision/<ref>", "info")
def info(hub: LoopbackHub, request: Request) -> Reply:
    repository = hub.find(request)
    oid = hub.resolve(repository, request.values.get("ref", _MAIN))
    files = repository.commits[oid].files
    listed = _listed(repository)
    found = {**listed, "sha": oid, "siblings": [{"rfilename": path} for path in files], "config": _config(files)}
    found["cardData"] = front_matter(files["README.md"].content.decode()) if "README.md" in files else None
    wanted = request.query.get("expand")
    return Reply.of({key: found[key] for key in ("id", *wanted)} if wanted else found)


@route("GET", "/api/models/<repo>/tree/<ref>", "tree")
def tree(hub: LoopbackHub, request: Request) -> Reply:
    repository = hub.find(request)
    files = repository.commits[hub.resolve(repository, request.values["ref"])].files
    entries = []
    for path, file in files.items():
        entry = {"type": "file", "path": path, "size": len(file.content), "oid": file.oid}
        if file.large:
            entry["lfs"] = {"oid": file.oid, "size": len(file.content), "pointerSize": 134}
        entries.append(entry)
    return Reply.of(entries)


@route("GET", "/api/models", "list")
def list_models(hub: LoopbackHub, request: Request) -> Reply:
    unknown = set(request.query) - {"filter", "search", "author", "limit"}
    if unknown:
        raise Refusal(501, f"the loopback Hub cannot filter by {sorted(unknown)}")
    wanted, (search,), (author,) = (request.query.get(key, [""]) for key in ("filter", "search", "author"))
    seen = [r for r in hub.repositories.values() if not r.private or r.owner == request.user]
    found = [
        listed
        for listed in map(_listed, seen)
        if set(filter(None, wanted)) <= set(listed["tags"])
        and search.lower() in listed["id"].lower()
        and author in ("", listed["id"].split("/")[0])
    ]
    return Reply.of(found[: int(request.query.get("limit", ["1000"])[0])])


def _listed(repository: Repository) -> dict[str, Any]:
    files = repository.commits[repository.refs[_MAIN]].files
    card = front_matter(files["README.md"].content.decode()) if "README.md" in files else {}
    tags = [*card.get("tags", []), *filter(None, [card.get("library_name")])]
    if base := card.get("base_model"):
        tags += [f"base_model:{base}", f"base_model:{card.get('base_model_relation', 'finetune')}:{base}"]
    numbers = {"downloads": 0, "likes": 0, "createdAt": _DATE, "lastModified": _DATE}
    state = {"private": repository.private, "gated": "manual" if repository.gated else False}
    return {"id": repository.name, "modelId": repository.name, **state, "tags": sorted(set(tags)), **numbers}


def _config(files: dict[str, File]) -> dict[str, Any]:
    if "config.json" not in files:
        return {}
    config = json.loads(files["config.json"].content)
    return {key: config[key] for key in ("model_type", "architectures") if key in config}


def front_matter(card: str) -> dict[str, Any]:
    """The metadata of a model card."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return yaml.safe_load(found[1]) if found else {}


# HTTP


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    hub: LoopbackHub


class _Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True  # headers and body go out one by one, and the second would wait for an answer

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at ``requests`` instead."""

    def answer(self) -> None:
        hub = self.server.hub
        kind = None
        try:
            request, handler = self._understood()
            owner = request.values.get("repo", request.user or "").split("/")[0]
            kind = hub.take_fault(owner, request.stage)
            if kind == "reset" and self._length():
                self.rfile.read(self._length() // 2)
                self._abort()
                return
            request.body = self._body()
            self._delay(kind)
            if kind in ("500", "503"):
                raise Refusal(int(kind), "a fault for the test", **{"Retry-After": "0"} if kind == "503" else {})
            if kind == "wrong hash" and request.body:
                request.body = _changed(request.body)
            with hub.lock:
                reply = handler(hub, request)
        except Refusal as refusal:
            reply = refusal.reply
        except ConnectionError:  # the client is gone
            self.close_connection = True
            return
        except Exception as error:  # a mistake in this file must not look like a fault
            hub.unexpected.append(f"{self.command} {self.path}: {error!r}")
            reply = Reply.of({"error": repr(error)}, 500)
        if kind == "wrong hash" and self.command == "GET":
            reply.body = _changed(reply.body)
        if kind in ("lost", "hang"):
            self._abort()
        else:
            self._send(reply, kind)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def _understood(self) -> tuple[Request, Handler]:
        path, _, query = self.path.partition("?")
        for method, pattern, stage, handler in _ROUTES:
            found = pattern.fullmatch(path)
            if found and method == self.command:
                values = {name: unquote(text) for name, text in found.groupdict().items()}
                stage = stage.replace("<path>", values.get("path", ""))
                user = self._user()
                return Request(stage, user, values, parse_qs(query), self.headers), handler
        self._body()
        self.server.hub.unexpected.append(f"{self.command} {self.path}")
        raise Refusal(501, f"the loopback Hub does not speak {self.command} {path}")

    def _user(self) -> str | None:
        try:
            return self.server.hub.user(self.headers)
        except Refusal:
            self._body()  # else the next request on this connection would begin in the middle of this one
            raise

    def _length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            return b"".join(self._chunks())
        body = self.rfile.read(self._length())
        if len(body) < self._length():
            raise ConnectionResetError(f"{len(body)} of {self._length()} bytes arrived")
        return body

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _delay(self, kind: str | None) -> None:
        if kind == "slow":
            time.sleep(self.server.hub.delay)
        elif kind == "hang":
            self.server.hub.closing.wait()

    def _send(self, reply: Reply, kind: str | None) -> None:
        body = b"" if self.command == "HEAD" else reply.body
        cut = kind in ("truncated", "reset")
        if cut and not body:
            self._abort()
            return
        try:
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
        except OSError:  # the client gave up waiting
            self.close_connection = True
            return
        if kind == "truncated":
            self.close_connection = True
        elif kind == "reset":
            self._abort()

    def _abort(self) -> None:
        """Reset the connection."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())


def _changed(content: bytes) -> bytes:
    """As long as before, with one bit turned."""
    return content[:-1] + bytes([content[-1] ^ 1])


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """A running Hub, which at the end must not have met a request that it does not speak."""
    with LoopbackHub() as hub:
        yield hub
    if hub.unexpected:
        raise AssertionError(f"the loopback Hub does not speak {hub.unexpected}")
