"""A stand-in for the hub: one model served from a folder over HTTP, by a server that can be made to break off."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "org/tiny"


class Hub:
    """Serves the files of `folder` as the model NAME while it is entered.

    left: bytes of files that it still gives before it breaks off in the middle of one, and hears nobody any more; None
    for no end.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.left = folder, None
        self.asked: list[str] = []

    def __enter__(self) -> Hub:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def env(self, cache: Path) -> dict[str, str]:
        """Variables that make the hub library ask here, and keep what it gets in `cache`."""
        endpoint = f"http://127.0.0.1:{self.server.server_port}"
        return {"HF_ENDPOINT": endpoint, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1"}

    def gone(self) -> bool:
        """Whether the network has been removed."""
        return self.left is not None and self.left <= 0

    def described(self) -> bytes:
        """What the hub says of the model."""
        files = [{"rfilename": path.name} for path in sorted(self.folder.iterdir())]
        return json.dumps({"id": NAME, "modelId": NAME, "sha": COMMIT, "private": False, "siblings": files}).encode()

    def tree(self) -> bytes:
        """The list of its files."""
        entries = [
            {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _etag(path.read_bytes())}
            for path in sorted(self.folder.iterdir())
        ]
        return json.dumps(entries).encode()


def _etag(raw: bytes) -> str:
    return hashlib.sha1(raw).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            hub.asked.append(f"{self.command} {self.path}")
            if hub.gone():
                self.close_connection = True
                return
            if self.path.startswith("/api/"):
                raw = hub.tree() if "/tree/" in self.path else hub.described()
                return self._send(raw, {"Content-Type": "application/json"}, body)
            path = hub.folder / self.path.split("?")[0].rsplit("/", 1)[1]
            if not path.is_file():
                self.send_error(404)
                return
            raw = path.read_bytes()
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            headers = {"ETag": f'"{_etag(raw)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(raw) - 1}/{len(raw)}"
            self._send(raw[start:], headers, body, 206 if start else 200)

        def _send(self, raw: bytes, headers: dict[str, str], body: bool, status: int = 200) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(raw))}.items():
                self.send_header(name, value)
            self.end_headers()
            if not body:
                return
            if hub.left is None or self.path.startswith("/api/"):
                self.wfile.write(raw)
                return
            given = raw[: max(0, hub.left)]
            hub.left -= len(raw)
            self.wfile.write(given)
            self.close_connection = len(given) < len(raw)

    return Handler
