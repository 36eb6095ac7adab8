"""Stands between a client and an emulator and breaks what it is told to break."""

import contextlib
import dataclasses
import http.client
import http.server
import threading
from collections.abc import Callable, Iterator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """One request as the client sent it."""

    method: str
    path: str
    size: int  # bytes of its body
    head: bytes = b""  # the first of them

    def uploads(self, name: str) -> bool:
        """Whether it sends bytes for an object of this name, which GCS has in the body."""
        if self.method not in {"PUT", "POST"} or not self.size:
            return False
        return name.encode() in self.path.replace("%2F", "/").encode() + self.head


@dataclasses.dataclass(kw_only=True)
class Proxy:
    """What was asked for, and what to do about the next ones."""

    backend: int  # port
    requests: list[Request] = dataclasses.field(default_factory=list)
    refuse: Callable[[Request], int | None] = lambda request: None  # an HTTP status to answer with
    cut: Callable[[Request], bool] = lambda request: False  # take half of the body, then hang up

    def count(self, word: str) -> int:
        return sum(word in request.path for request in self.requests)


_CLOSE = {"Connection": "close"}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def _forward(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        head = self.rfile.read(min(size // 2, 1000))
        request = Request(method=self.command, path=self.path, size=size, head=head)
        self.proxy.requests.append(request)
        if self.proxy.cut(request):
            self.rfile.read(size // 2 - len(head))
            self.close_connection = True
            return
        body = head + self.rfile.read(size - len(head))
        status = self.proxy.refuse(request)
        if status is not None:
            self._answer(status, {}, b"{}" if self.command != "HEAD" else b"")
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.proxy.backend, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers) | _CLOSE)
        answer = connection.getresponse()
        content = answer.read()
        headers = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in {"connection", "transfer-encoding", "date", "server"}
        }
        connection.close()
        self._answer(answer.status, headers, content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _forward

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "content-length" not in {name.lower() for name in headers}:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


@contextlib.contextmanager
def in_front_of(port: int) -> Iterator[tuple[Proxy, int]]:
    """A proxy before a server on loopback, and its own port."""
    proxy = Proxy(backend=port)
    handler = type("Handler", (_Handler,), {"proxy": proxy})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield proxy, server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
