"""The stand-in: repositories in memory behind the routes that the installed client asks for.

Uploads of weights come as Xet over HTTP (`way="cas"`), as Xet through a folder (`way="local"`), or, from a client
with HF_HUB_DISABLE_XET=1, as classic LFS. `Fault`s answer chosen requests otherwise.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import itertools
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from hub.xet import Store

TOKEN = "hf_" + "StandInWriteToken" * 2
READ_TOKEN = "hf_" + "StandInReadOnlyOne" * 2
FINE_TOKEN = "hf_" + "StandInFineGrained" * 2
_numbers = itertools.count()
_LFS = (".safetensors", ".bin", ".png", ".model")


@dataclass(frozen=True)
class Entry:
    """A file of a commit."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    @property
    def identity(self) -> str:
        return self.sha256 if self.lfs else self.git


@dataclass(frozen=True)
class Commit:
    """A state of a repository."""

    oid: str
    parent: str | None
    title: str
    files: Mapping[str, Entry]


@dataclass
class Repo:
    """Commits and the names that point at them."""

    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pulls: dict[int, tuple[str, str]] = field(default_factory=dict)
    """The title and the author of each pull request; `refs/pr/N` is among the branches."""

    def add(self, title: str, files: Mapping[str, Entry], parent: str | None, ref: str) -> Commit:
        oid = hashlib.sha1(f"{parent} {title} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, dict(files))
        self.branches[ref] = oid
        return self.commits[oid]

    def at(self, revision: str) -> Commit | None:
        return self.commits.get(self.branches.get(revision) or self.tags.get(revision) or revision)

    def log(self, revision: str = "main") -> list[str]:
        """The titles of the commits, the last first."""
        titles, commit = [], self.at(revision)
        while commit:
            titles.append(commit.title)
            commit = self.commits.get(commit.parent or "")
        return titles


@dataclass
class Fault:
    """Requests that go wrong: the first `times` whose `METHOD /path` the pattern finds, after `skip` of them."""

    pattern: str
    status: int = 0
    """The answer; 0: none, the connection is cut before the body is read."""
    headers: Mapping[str, str] = field(default_factory=dict)
    times: int = 10**9
    done: bool = False
    """Do the work, then cut the connection instead of answering."""
    hangs: threading.Event | None = None
    """Wait for this before cutting."""
    before: Callable[[], None] | None = None
    """Something to do before the request is carried out as ever."""
    seen: int = 0


class Gone(Exception):
    """The connection is to be cut."""


class Answer(Exception):
    """An answer other than the usual one."""

    def __init__(self, status: int, says: str = "", code: str = "", **body: Any):
        self.status, self.body = status, {"error": says, **body}
        self.headers = {"X-Error-Message": says} if says else {}
        self.headers |= {"X-Error-Code": code} if code else {}


def _user(name: str, role: str, orgs: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    token = {"displayName": "test", "role": role, **more}
    auth = {"type": "access_token", "accessToken": token}
    listed = [{"name": org, "roleInOrg": "write"} for org in orgs]
    return {"type": "user", "id": "1", "name": name, "fullname": name, "orgs": listed, "auth": auth}


class Hub:
    """The server and its state; a context manager."""

    def __init__(self, way: str = "cas", folder: Path | None = None):
        self.way, self.folder = way, folder
        self.number = next(_numbers)
        """Tells this one's chunk store from others that had the port before: hf_xet remembers what it sent where."""
        self.repos: dict[str, Repo] = {}
        self.store, self.blobs = Store(), dict[str, bytes]()
        self.users = {
            TOKEN: _user("me", "write", ("org",)),
            READ_TOKEN: _user("me", "read", ("org",)),
            FINE_TOKEN: _user(
                "me",
                "fineGrained",
                fineGrained={
                    "global": [],
                    "scoped": [{"entity": {"type": "model", "name": "me/mine"}, "permissions": ["repo.write"]}],
                },
            ),
        }
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.received: list[bytes] = []
        """Every request, raw, but for the header that has to hold the token: whatever leaks is in here."""
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def create(self, name: str, private: bool = True) -> Repo:
        """A new repository with the commit that the Hub begins each with."""
        repo = self.repos[name] = Repo(private)
        repo.add("initial commit", {".gitattributes": Entry(b"*.safetensors filter=lfs\n", False)}, None, "main")
        return repo

    def file(self, name: str, path: str, revision: str = "main") -> bytes:
        """The bytes of a file."""
        commit = self.repos[name].at(revision)
        assert commit
        return commit.files[path].data

    def count(self, pattern: str) -> int:
        """How many requests were made whose `METHOD /path` the pattern finds."""
        return sum(bool(re.search(pattern, request)) for request in self.requests)

    def stored(self, sha256: str) -> bytes | None:
        """The bytes of an uploaded large file."""
        if sha256 in self.blobs:
            return self.blobs[sha256]
        if self.folder:
            below = self.folder / "xet" / "xorbs"
            xorbs = {path.name.partition(".")[2]: path.read_bytes() for path in (below / "xorbs").glob("default.*")}
            return Store(xorbs, [path.read_bytes() for path in (below / "shards").glob("*.mdb")]).read(sha256)
        return self.store.read(sha256)


_ROUTES: list[tuple[str, re.Pattern[str], str]] = []


def route(method: str, pattern: str) -> Callable[[Any], Any]:
    """Has a method of the handler answer such requests."""

    def note(function: Any) -> Any:
        _ROUTES.append((method, re.compile(pattern), function.__name__))
        return function

    return note


_ID = r"(?P<id>[^/]+/[^/]+)"
_MODEL = rf"/api/models/{_ID}"


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Nothing on the test's standard error."""

    def _serve(self) -> None:
        url = urlsplit(self.path)
        request = f"{self.command} {url.path}"
        with self.hub.lock:
            self.hub.requests.append(request)
            fault = next((f for f in self.hub.faults if f.times > 0 and re.search(f.pattern, request)), None)
            if fault:
                fault.times -= 1
                fault.seen += 1
        try:
            if fault and fault.hangs:
                fault.hangs.wait(60)
                raise Gone
            if fault and not fault.done and not fault.status and not fault.before:
                raise Gone
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = [pair for pair in self.headers.items() if pair[0].lower() != "authorization"]
            self.hub.received.append(self.body + repr(headers).encode() + self.path.encode())
            if fault and fault.before:
                fault.before()
            if fault and fault.status:
                answer = Answer(fault.status, "planted", url=f"{self.hub.url}/me/thing")
                answer.headers |= fault.headers
                raise answer
            with self.hub.lock:
                found = self._found(url.path, {k: v[0] for k, v in parse_qs(url.query).items()})
            if fault and fault.done:
                raise Gone
            self._send(*found) if isinstance(found, tuple) else self._json(200, found)
        except Gone:
            self.close_connection = True
            # A reset, as when a machine goes away.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        except Answer as answer:
            self._json(answer.status, answer.body, answer.headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _serve

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            pass

    def _found(self, path: str, query: dict[str, str]) -> Any:
        for method, pattern, name in _ROUTES:
            if method in (self.command, "ANY") and (match := pattern.fullmatch(path)):
                groups = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                return getattr(self, name)(**groups, query=query)
        raise Answer(404, "Not Found")

    def _json(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _who(self) -> dict[str, Any] | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.users:
            raise Answer(401, "Invalid credentials in Authorization header")
        return self.hub.users.get(token)

    def _owns(self, name: str, who: dict[str, Any] | None) -> bool:
        owner = name.partition("/")[0]
        return bool(who) and owner in {who["name"], *(org["name"] for org in who["orgs"])}

    def _writes(self, name: str, who: dict[str, Any] | None) -> bool:
        if not who or not self._owns(name, who):
            return False
        token = who["auth"]["accessToken"]
        scoped = token.get("fineGrained", {}).get("scoped", [])
        named = {scope["entity"]["name"] for scope in scoped if "repo.write" in scope["permissions"]}
        return token["role"] == "write" or bool(named & {name, name.partition("/")[0]})

    def _repo(self, name: str, *, write: bool = False) -> Repo:
        who, repo = self._who(), self.hub.repos.get(name)
        if repo is None or (repo.private and not self._owns(name, who)):
            raise Answer(404 if who else 401, "Repository not found", "RepoNotFound")
        if write and not self._writes(name, who):
            raise Answer(403, "You don't have the required permissions")
        return repo

    def _commit_at(self, repo: Repo, revision: str) -> Commit:
        if commit := repo.at(revision):
            return commit
        raise Answer(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    # Who and what

    @route("GET", "/api/whoami-v2")
    def whoami(self, query: Any) -> Any:
        if who := self._who():
            return who
        raise Answer(401, "Invalid credentials in Authorization header")

    @route("POST", "/api/repos/create")
    def create(self, query: Any) -> Any:
        asked, who = json.loads(self.body), self._who()
        name = f"{asked['organization'] or (who or {}).get('name')}/{asked['name']}"
        if not self._writes(name, who):
            raise Answer(403, "You don't have the rights to create a model under this namespace")
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            raise Answer(409, "You already created this model repo", url=url)
        self.hub.create(name, asked.get("visibility") == "private")
        return {"url": url}

    @route("GET", _MODEL)
    @route("GET", f"{_MODEL}/revision/(?P<revision>[^/]+)")
    def info(self, id: str, query: Any, revision: str = "main") -> Any:
        repo = self._repo(id)
        commit = self._commit_at(repo, revision)
        siblings = [{"rfilename": path} for path in commit.files]
        if query.get("blobs"):
            siblings = [{"rfilename": path, **self._about(entry)} for path, entry in commit.files.items()]
        return {"id": id, "sha": commit.oid, "private": repo.private, "siblings": siblings, "tags": []}

    def _about(self, entry: Entry) -> dict[str, Any]:
        lfs = {"sha256": entry.sha256, "size": len(entry.data), "pointerSize": 134}
        return {"size": len(entry.data), "blobId": entry.git, **({"lfs": lfs} if entry.lfs else {})}

    @route("GET", f"{_MODEL}/auth-check(?P<write>/write)?")
    def auth_check(self, id: str, query: Any, write: str = "") -> Any:
        self._repo(id, write=bool(write))
        return {}

    @route("GET", f"{_MODEL}/refs")
    def refs(self, id: str, query: Any) -> Any:
        repo = self._repo(id)
        heads = {name: oid for name, oid in repo.branches.items() if not name.startswith("refs/")}
        return {"branches": _listed(heads, "heads"), "converts": [], "tags": _listed(repo.tags, "tags")}

    @route("POST", rf"{_MODEL}/branch/(?P<branch>[^/]+)")
    def branch(self, id: str, branch: str, query: Any) -> Any:
        repo = self._repo(id, write=True)
        if branch in repo.branches:
            raise Answer(409, "Reference already exists")
        repo.branches[branch] = repo.branches["main"]
        return {}

    @route("POST", rf"{_MODEL}/tag/(?P<revision>[^/]+)")
    def tag(self, id: str, revision: str, query: Any) -> Any:
        repo, name = self._repo(id, write=True), json.loads(self.body)["tag"]
        if name in repo.tags:
            raise Answer(409, "Tag reference exists already")
        repo.tags[name] = self._commit_at(repo, revision).oid
        return {}

    @route("GET", f"{_MODEL}/discussions")
    def discussions(self, id: str, query: Any) -> Any:
        found = [
            {"num": number, "title": title, "author": {"name": author}, "status": "open", "isPullRequest": True}
            | {"createdAt": "2026-11-21T05:40:46.000Z", "repo": {"name": id, "type": "model"}}
            for number, (title, author) in self._repo(id).pulls.items()
            if query.get("author") in (None, author)
        ]
        return {"discussions": found, "count": len(found), "start": 0}

    # Uploads

    @route("POST", "/api/validate-yaml")
    def validate(self, query: Any) -> Any:
        front = re.match(r"---\n(.*?)\n---\n", json.loads(self.body)["content"], re.DOTALL)
        try:
            fine = front is not None and isinstance(yaml.safe_load(front.group(1)), dict)
        except yaml.YAMLError:
            fine = False
        if not fine:
            raise Answer(400, errors=[{"message": "The metadata are no mapping"}], warnings=[])
        return {"errors": [], "warnings": []}

    @route("POST", f"{_MODEL}/preupload/(?P<revision>[^/]+)")
    def preupload(self, id: str, revision: str, query: Any) -> Any:
        repo = self._repo(id, write=not query.get("create_pr"))
        files = self._commit_at(repo, revision).files
        ignored = files[".gitignore"].data.decode().split() if ".gitignore" in files else []
        found = []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            large = path.endswith(_LFS) or asked["size"] >= 10_000_000
            row = {"path": path, "uploadMode": "lfs" if large else "regular"}
            row["shouldIgnore"] = any(fnmatch.fnmatch(path, pattern) for pattern in ignored)
            found.append(row | ({"oid": files[path].identity} if path in files else {}))
        return {"files": found}

    @route("GET", f"{_MODEL}/xet-write-token/(?P<revision>[^/]+)")
    def xet_token(self, id: str, revision: str, query: Any) -> Any:
        self._repo(id, write=not query.get("create_pr"))
        cas = f"local://{self.hub.folder}" if self.hub.way == "local" else f"{self.hub.url}/cas/{self.hub.number}"
        body = {"casUrl": cas, "accessToken": "cas", "exp": 4102444800}
        headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": "cas", "X-Xet-Token-Expiration": "4102444800"}
        return 200, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}

    @route("POST", r"/cas/\d+/v1/xorbs/default/(?P<name>[0-9a-f]+)")
    def xorb(self, name: str, query: Any) -> Any:
        self.hub.store.xorbs[name] = self.body
        return {"was_inserted": True}

    @route("POST", r"/cas/\d+/v1/shards")
    def shard(self, query: Any) -> Any:
        self.hub.store.shards.append(self.body)
        return {"result": 1}

    @route("POST", rf"/{_ID}\.git/info/lfs/objects/batch")
    def batch(self, id: str, query: Any) -> Any:
        self._repo(id, write=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            links = {
                "upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}?X-Amz-Signature=signed", "header": {}},
                "verify": {"href": f"{self.hub.url}/lfs-verify/{asked['oid']}"},
            }
            objects.append(asked | ({} if asked["oid"] in self.hub.blobs else {"actions": links}))
        return {"transfer": "basic", "objects": objects}

    @route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
    def put(self, oid: str, query: Any) -> Any:
        self.hub.blobs[oid] = self.body
        return {}

    @route("POST", "/lfs-verify/(?P<oid>[0-9a-f]{64})")
    def verify(self, oid: str, query: Any) -> Any:
        if oid not in self.hub.blobs:
            raise Answer(422, "Not stored")
        return {}

    @route("POST", f"{_MODEL}/commit/(?P<revision>[^/]+)")
    def commit(self, id: str, revision: str, query: Any) -> Any:
        pull = bool(query.get("create_pr"))
        repo = self._repo(id, write=not pull)
        head = self._commit_at(repo, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        title, files = lines[0]["value"]["summary"], dict(head.files)
        if not pull and lines[0]["value"].get("parentCommit", head.oid) != head.oid:
            raise Answer(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            self._apply(line["key"], line["value"], files)
        number = len(repo.pulls) + 1
        if pull:
            repo.pulls[number] = (title, (self._who() or {})["name"])
        made = repo.add(title, files, head.oid, f"refs/pr/{number}" if pull else revision)
        answer = {"commitUrl": f"{self.hub.url}/{id}/commit/{made.oid}", "commitOid": made.oid, "success": True}
        return answer | ({"pullRequestUrl": f"{self.hub.url}/{id}/discussions/{number}"} if pull else {})

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, Entry]) -> None:
        if key == "file":
            files[value["path"]] = Entry(base64.b64decode(value["content"]), False)
        elif key == "lfsFile":
            data = self.hub.stored(value["oid"])
            if data is None or hashlib.sha256(data).hexdigest() != value["oid"] or len(data) != value["size"]:
                raise Answer(400, f"{value['path']} was not uploaded")
            files[value["path"]] = Entry(data, True)
        elif files.pop(value["path"], None) is None:
            raise Answer(404, "A file with this name doesn't exist", "EntryNotFound")

    # Downloads

    @route("GET", rf"{_MODEL}/tree/(?P<revision>[^/]+)(?P<below>/.*)?")
    def tree(self, id: str, revision: str, query: Any, below: str = "") -> Any:
        files, start = self._commit_at(self._repo(id), revision).files, below.strip("/")
        found = {path: entry for path, entry in files.items() if path.startswith(f"{start}/" if start else "")}
        if not found:
            raise Answer(404, "Entry not found", "EntryNotFound")
        return [
            {"type": "file", "path": path, "size": len(entry.data), "oid": entry.git}
            | ({"lfs": {"oid": entry.sha256, "size": len(entry.data), "pointerSize": 134}} if entry.lfs else {})
            for path, entry in found.items()
        ]

    @route("ANY", rf"/{_ID}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
    def resolve(self, id: str, revision: str, path: str, query: Any) -> Any:
        commit = self._commit_at(self._repo(id), revision)
        if path not in commit.files:
            answer = Answer(404, "Entry not found", "EntryNotFound")
            answer.headers["X-Repo-Commit"] = commit.oid
            raise answer
        entry = commit.files[path]
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{entry.identity}"', "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            start, size = int(asked[1]), len(entry.data)
            return 206, entry.data[start:], headers | {"Content-Range": f"bytes {start}-{size - 1}/{size}"}
        return 200, entry.data, headers


def _listed(refs: Mapping[str, str], kind: str) -> list[dict[str, str]]:
    return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in refs.items()]
