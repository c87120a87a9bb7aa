"""A Hub over real HTTP for tests: the endpoints that huggingface_hub's own client calls (hub-facts.md, section 3).

Faults are put in by ``server.fail(...)``; every request is kept in ``server.requests``.
"""

import base64
import hashlib
import json
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from hub_store import Entry, Store
from xet_store import xet_hashes

LARGE = (".safetensors", ".bin", ".pkl", ".pt", ".parquet", ".png", ".npy", ".arrow")


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests that match.

    ``status``: answered so instead of being done. ``kind``: ``drop`` (connection closed, nothing done), ``drop_after``
    (done, but the answer is lost), ``truncate`` (half of a download), ``corrupt`` (a download with one byte changed),
    ``stall`` (no answer at all).
    """

    method: str
    path: str
    times: int
    status: int | None
    kind: str | None
    headers: dict


class HubServer(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.store, self.faults, self.requests, self.lock = Store(folder), [], [], threading.RLock()
        self.xet_folder = None  # a folder here makes the xet path answer with local storage
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, method, path, *, status=None, kind=None, times=1, headers=None):
        self.faults.append(Fault(method, path, times, status, kind, headers or {}))

    def fault(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method in (method, "ANY") and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request, client_address):
        pass  # a client that was killed

    def xet_hash(self, sha256):
        return xet_hashes(self.xet_folder).get(sha256)

    def seen(self, method, path):
        return [p for m, p in self.requests if m == method and re.search(path, p)]


class RefusedError(Exception):
    def __init__(self, status, message, code=None, body=None):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer in two parts waits 40 ms
    wbufsize = -1

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _serve(self):
        server = self.server
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        path = url.path
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with server.lock:
            server.requests.append((self.command, unquote(path)))
        self.fault = server.fault(self.command, unquote(path))
        if self.fault and self.fault.kind == "stall":
            time.sleep(600)  # until the test ends: the client is killed meanwhile
        if self.fault and self.fault.kind == "drop":
            self.close_connection = True
            return
        try:
            if self.fault and self.fault.status:
                headers = dict(self.fault.headers)
                code = headers.pop("X-Error-Code", None)
                self._answer(self.fault.status, {"error": "put in by the test"}, headers=headers, code=code)
                return
            with server.lock:
                answer = self._route(path)
            if self.fault and self.fault.kind == "drop_after":
                self.close_connection = True
                return
            if answer is not None:
                self._answer(200, answer)
        except RefusedError as error:
            self._answer(error.status, error.body or {"error": error.message}, code=error.code, message=error.message)

    def _answer(self, status, content, *, headers=None, code=None, message=None):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for key, value in {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # Who asks, and for what

    def _user(self, *, write=False):
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.server.store.users:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        name, role = self.server.store.users.get(token, (None, None))
        if write and name is None:
            raise RefusedError(401, "Log in first", "RepoNotFound")
        if write and role != "write":
            raise RefusedError(403, "This token may only read")
        return name

    def _repo(self, kind, name, *, write=False):
        user = self._user(write=write)
        repo = self.server.store.repos.get((kind, name))
        owner = name.split("/")[0]
        if repo is None or (repo.private and user != owner):
            raise RefusedError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != owner:
            raise RefusedError(403, "You do not have the rights to write here")
        return repo

    def _commit(self, repo, revision):
        commit = repo.resolve(revision)
        if commit is None:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def _json(self):
        return json.loads(self.body or b"{}")

    def _route(self, path):
        for method, pattern, action in ROUTES:
            match = pattern.fullmatch(path)
            if match and self.command in method.split("|"):
                groups = {key: unquote(value) for key, value in match.groupdict().items() if value is not None}
                return action(self, **groups)
        raise RefusedError(404, f"no such endpoint: {self.command} {path}", "EntryNotFound")

    # Endpoints

    def whoami(self):
        name = self._user()
        if name is None:
            raise RefusedError(401, "Log in first")
        role = next(role for user, role in self.server.store.users.values() if user == name)
        return {"type": "user", "name": name, "orgs": [], "auth": {"accessToken": {"displayName": "t", "role": role}}}

    def create(self):
        asked, user = self._json(), self._user(write=True)
        owner = asked.get("organization") or user
        if owner != user:
            raise RefusedError(403, f"You don't have the rights to create a model under the namespace {owner}")
        kind, name = f"{asked.get('type') or 'model'}s", f"{owner}/{asked['name']}"
        url = f"{self.server.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.server.store.repos:
            raise RefusedError(409, "You already created this repo", body={"error": "exists", "url": url})
        self.server.store.create(kind, name, private=asked.get("visibility") == "private")
        return {"url": url, "name": name, "id": name}

    def settings(self, kind, repo):
        self._repo(kind, repo, write=True).private = self._json()["visibility"] == "private"
        return {}

    def validate(self):
        import yaml

        content = self._json()["content"]
        head = re.match(r"---\n(.*?)\n---", content, re.DOTALL)
        data = yaml.safe_load(head[1]) if head else None
        if isinstance(data, dict) and "bogus" in data:
            raise RefusedError(400, "bad", body={"errors": [{"message": '"bogus" is not allowed'}], "warnings": []})
        return {"errors": [], "warnings": []}

    def preupload(self, kind, repo, rev):
        repo = self._repo(kind, repo, write=True)
        tree = self._commit(repo, rev).tree
        files = []
        for file in self._json()["files"]:
            entry = tree.get(file["path"])
            large = file["path"].endswith(LARGE) or file["size"] > 10_000_000
            oid = None if entry is None else (entry.sha256 or entry.oid)
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return {"files": files}

    def lfs_batch(self, repo, kind="models"):
        self._repo(kind, repo, write=True)
        objects = []
        for item in self._json()["objects"]:
            answer = dict(item)
            if self.server.store.blob(item["oid"]) is None:
                answer["actions"] = {
                    "upload": {"href": f"{self.server.url}/lfs/{item['oid']}"},
                    "verify": {"href": f"{self.server.url}/lfs-verify"},
                }
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, sha):
        if hashlib.sha256(self.body).hexdigest() != sha:
            raise RefusedError(400, "the bytes are not those of the sha256")
        (self.server.store.blobs / sha).write_bytes(self.body)
        return {}

    def lfs_verify(self):
        item = self._json()
        blob = self.server.store.blob(item["oid"])
        if blob is None or blob.stat().st_size != item["size"]:
            raise RefusedError(422, "size mismatch")
        return {}

    def commit(self, kind, repo, rev):
        repo, user = self._repo(kind, repo, write=True), self._user()
        if rev not in repo.branches:
            raise RefusedError(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        tree, header = dict(self._commit(repo, rev).tree), {}
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                header = value
                if value.get("parentCommit") and value["parentCommit"] != repo.branches[rev]:
                    raise RefusedError(412, "A commit has happened since. Please refresh and try again.")
            elif item["key"] == "file":
                content = base64.b64decode(value["content"])
                tree[value["path"]] = Entry(len(content), content)
            elif item["key"] == "lfsFile":
                if self.server.store.blob(value["oid"]) is None and self.server.xet_folder is None:
                    raise RefusedError(400, f"LFS pointer to {value['oid']} that was never uploaded")
                tree[value["path"]] = Entry(value["size"], sha256=value["oid"])
            elif item["key"] == "deletedFile" and tree.pop(value["path"], None) is None:
                raise RefusedError(404, f"no {value['path']} to delete", "EntryNotFound")
        made = repo.commit(header["summary"], tree, author=user, message=header.get("description", ""), branch=rev)
        return {"commitUrl": f"{self.server.url}/{repo.id}/commit/{made.oid}", "commitOid": made.oid, "success": True}

    def info(self, kind, repo, rev="main"):
        repo = self._repo(kind, repo)
        commit = self._commit(repo, rev)
        files = [{"rfilename": path, "size": entry.size} for path, entry in sorted(commit.tree.items())]
        return {"_id": "1", "id": repo.id, "sha": commit.oid, "private": repo.private, "siblings": files, "tags": [],
                "downloads": 0, "likes": 0, "disabled": False, "gated": False}  # fmt: skip

    def tree(self, kind, repo, rev, sub=None):
        commit = self._commit(self._repo(kind, repo), rev)
        prefix = f"{sub}/" if sub else ""
        found = [(path, entry) for path, entry in sorted(commit.tree.items()) if path.startswith(prefix)]
        if sub and not found:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        return [entry.as_json(path, self.server_xet(entry)) for path, entry in found]

    def server_xet(self, entry):
        return self.server.xet_hash(entry.sha256) if self.server.xet_folder and entry.sha256 else None

    def paths_info(self, kind, repo, rev):
        commit = self._commit(self._repo(kind, repo), rev)
        asked = parse_qs(self.body.decode()).get("paths", [])
        return [commit.tree[path].as_json(path) for path in asked if path in commit.tree]

    def refs(self, kind, repo):
        repo = self._repo(kind, repo)

        def listed(refs, kind):
            return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in refs.items()]

        return {"branches": listed(repo.branches, "heads"), "tags": listed(repo.tags, "tags"), "converts": []}

    def commits(self, kind, repo, rev):
        repo = self._repo(kind, repo)
        self._commit(repo, rev)
        return [
            {"id": c.oid, "title": c.title, "message": c.message, "authors": [{"user": c.author}],
             "date": "2026-11-24T00:00:00.000Z"}
            for c in repo.history()
        ]  # fmt: skip

    def tag(self, kind, repo, rev):
        repo = self._repo(kind, repo, write=True)
        name = self._json()["tag"]
        if name in repo.tags:
            raise RefusedError(409, "Tag reference exists already")
        repo.tags[name] = self._commit(repo, rev).oid
        return {}

    def branch(self, kind, repo, rev):
        repo = self._repo(kind, repo, write=True)
        if rev in repo.branches:
            raise RefusedError(409, "Reference already exists")
        repo.branches[rev] = self._commit(repo, self._json().get("startingPoint") or "main").oid
        return {}

    def resolve(self, repo, rev, path, kind="models"):
        repo = self._repo(kind, repo)
        commit = self._commit(repo, rev)
        entry = commit.tree.get(path)
        if entry is None:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        content = self.server.store.bytes_of(entry) if entry.content is not None or not self.server.xet_folder else b""
        start, end, status = 0, len(content), 200
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end, status = int(match[1]), min(len(content), int(match[2] or len(content)) + 1), 206
        self.send_response(status)
        headers = {
            "X-Repo-Commit": commit.oid,
            "ETag": f'"{entry.sha256 or entry.oid}"',
            "Accept-Ranges": "bytes",
            "Content-Length": str(end - start),
        }
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        if entry.sha256:
            headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        if xet := self.server_xet(entry):
            link = f"{self.server.url}/api/{kind}/{repo.id}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": xet, "Link": f'<{link}>; rel="xet-auth"'}
        for key, value in headers.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self._send(content[start:end])

    def _send(self, content):
        kind = self.fault.kind if self.fault else None
        if kind == "truncate":
            content, self.close_connection = content[: len(content) // 2], True
        if kind == "corrupt":
            content = content[:-1] + bytes([content[-1] ^ 1])
        with suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(content)

    def xet_token(self, kind, repo, rev, mode):
        self._repo(kind, repo, write=mode == "write")
        cas, expiry = f"local://{self.server.xet_folder}", int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": cas, "X-Xet-Access-Token": "t", "X-Xet-Token-Expiration": str(expiry)}
        self._answer(200, {"casUrl": cas, "accessToken": "t", "exp": expiry}, headers=headers)


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/(?P<kind>models|datasets)/{_REPO}"
_REV = r"(?P<rev>[^/]+)"
ROUTES = [
    (method, re.compile(pattern), action)
    for method, pattern, action in [
        ("GET", r"/api/whoami-v2", Handler.whoami),
        ("POST", r"/api/repos/create", Handler.create),
        ("POST", r"/api/validate-yaml", Handler.validate),
        ("PUT", rf"{_API}/settings", Handler.settings),
        ("POST", rf"{_API}/preupload/{_REV}", Handler.preupload),
        ("POST", rf"{_API}/commit/{_REV}", Handler.commit),
        ("POST", rf"{_API}/paths-info/{_REV}", Handler.paths_info),
        ("POST", rf"{_API}/tag/{_REV}", Handler.tag),
        ("POST", rf"{_API}/branch/{_REV}", Handler.branch),
        ("GET", rf"{_API}/tree/{_REV}(?:/(?P<sub>.+))?", Handler.tree),
        ("GET", rf"{_API}/refs", Handler.refs),
        ("GET", rf"{_API}/commits/{_REV}", Handler.commits),
        ("GET", rf"{_API}/xet-(?P<mode>write|read)-token/{_REV}", Handler.xet_token),
        ("GET", rf"{_API}(?:/revision/{_REV})?", Handler.info),
        ("POST", rf"/(?:(?P<kind>datasets)/)?{_REPO}\.git/info/lfs/objects/batch", Handler.lfs_batch),
        ("PUT", r"/lfs/(?P<sha>[0-9a-f]{64})", Handler.lfs_put),
        ("POST", r"/lfs-verify", Handler.lfs_verify),
        ("GET|HEAD", rf"/(?:(?P<kind>datasets)/)?{_REPO}/resolve/{_REV}/(?P<path>.+)", Handler.resolve),
    ]
]
