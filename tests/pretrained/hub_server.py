"""As much of the Hugging Face hub's HTTP interface as fetching a snapshot needs, on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

ERRORS = {"missing": (401, "RepoNotFound"), "gated": (403, "GatedRepo")}


class Hub:
    """Repositories by name, each a folder at one commit; `asked` lists the requests, `down` fails them all."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        self.repositories = repositories
        self.asked: list[str] = []
        self.down = False
        self.url = ""

    @staticmethod
    def commit(folder: Path) -> str:
        return hashlib.sha1(str(folder).encode()).hexdigest()


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path).strip("/")
            hub.asked.append(f"{self.command} {path}")
            parts = path.removeprefix("api/models/").split("/")
            name, rest = "/".join(parts[:2]), parts[2:]
            if hub.down:
                self.fail(500, "")
                return
            if name not in hub.repositories:
                self.fail(*ERRORS[parts[1]])
                return
            folder = hub.repositories[name]
            commit = Hub.commit(folder)
            files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
            if rest[:1] in (["revision"], ["tree"], ["resolve"]) and rest[1] not in ("main", "v1", commit):
                self.fail(404, "RevisionNotFound")
            elif rest[:1] == ["resolve"]:
                self.send_file(folder / "/".join(rest[2:]), commit)
            elif rest[:1] == ["tree"]:
                self.send_json([entry(folder, file) for file in files])
            else:
                self.send_json(
                    {"id": name, "modelId": name, "sha": commit, "siblings": [{"rfilename": f} for f in files]}
                )

        def send_json(self, content: Any) -> None:
            self.reply(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

        def send_file(self, path: Path, commit: str) -> None:
            if path.is_file():
                body = path.read_bytes()
                self.reply(200, body, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit})
            else:
                self.fail(404, "EntryNotFound")

        def fail(self, status: int, code: str) -> None:
            self.reply(status, b"{}", {"X-Error-Code": code} if code else {})

        def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def entry(folder: Path, file: str) -> dict[str, Any]:
    body = (folder / file).read_bytes()
    return {"type": "file", "path": file, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
