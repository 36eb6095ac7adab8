"""A hub on this machine: what huggingface_hub asks for a file or a repository, and no more."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

COMMIT = "a" * 40


@contextlib.contextmanager
def fake_hub(repositories: Mapping[str, Mapping[str, bytes]]) -> Iterator[tuple[str, list[str]]]:
    """Serve repositories.

    Args:
        repositories: name -> path -> content; `gated` in a name asks for consent.

    Yields:
        The endpoint, and the requests that arrived.
    """
    requests: list[str] = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(head=True)

        def do_GET(self) -> None:
            self.answer(head=False)

        def answer(self, *, head: bool) -> None:
            requests.append(f"{self.command} {self.path}")
            name = next((name for name in repositories if f"/{name}/" in f"{self.path}/"), None)
            if name is None:
                return self.refuse(404, "RepoNotFound")
            if "gated" in name:
                return self.refuse(403, "GatedRepo")
            if self.path.startswith("/api/models/"):
                files = [
                    {"type": "file", "path": path, "size": len(content), "oid": COMMIT}
                    for path, content in repositories[name].items()
                ]
                found = files if "/tree/" in self.path else {"id": name, "sha": COMMIT}
                return self.send(json.dumps(found).encode(), head=head)
            content = repositories[name].get(self.path.split("/", 5)[-1])
            if content is None:
                return self.refuse(404, "EntryNotFound")
            return self.send(content, head=head)

        def send(self, content: bytes, *, head: bool) -> None:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if not head:
                self.wfile.write(content)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def cached(cache: Path, hub_id: str, files: Mapping[str, bytes]) -> Path:
    """Lay files out as the hub's cache does, and return the snapshot's folder."""
    repository = cache / f"models--{hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    for folder in (snapshot, repository / "blobs", repository / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(COMMIT)
    for name, content in files.items():
        blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(blob)
    return snapshot
