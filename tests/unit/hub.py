"""A hub of models and data sets in a thread: what huggingface_hub asks of it, and no more."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

COMMIT = "1234567890" * 4


@contextmanager
def serve_hub(repository: str, files: dict[str, bytes]) -> Generator[str]:
    """Serve the files of one repository; yield the address for `HF_ENDPOINT`."""

    class Hub(BaseHTTPRequestHandler):
        def log_message(self, *_arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            if path.startswith(f"/api/models/{repository}/tree/"):
                self._answer([_describe(name) for name in files])
            elif path.startswith(f"/api/models/{repository}"):
                self._answer({"id": repository, "sha": COMMIT, "siblings": []})
            else:
                self._send(files.get(path.partition("/resolve/main/")[2]))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self._answer([_describe(name) for name in parse_qs(body)["paths"] if name in files])

        def _answer(self, value: object) -> None:
            self._send(json.dumps(value).encode())

        def _send(self, data: bytes | None) -> None:
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.send_header("ETag", f'"{COMMIT}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            self.wfile.write(data or b"")

    def _describe(name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(files[name]), "oid": COMMIT}

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
