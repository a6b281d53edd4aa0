"""An S3 endpoint that misbehaves: a proxy before MinIO that answers 503 or drops connections."""

from __future__ import annotations

import http.client
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

from . import ports

SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
# What the clock of a server says that refuses.
LONG_AGO = "Thu, 01 Jan 2026 00:00:00 GMT"
Checksums = Literal["taken", "refused", "refused with parts", "unsaid"]
HOP_HEADERS = {"connection", "transfer-encoding", "keep-alive"}


class FaultyS3:
    """Forwards to MinIO on loopback; a share of the requests is refused, and as many connections are dropped."""

    def __init__(
        self,
        upstream_port: int,
        share: float = 0,
        seed: int = 3,
        checksums: Checksums = "taken",
        refusal: tuple[int, str] = (400, "InvalidRequest"),
    ) -> None:
        """`checksums` says of what becomes of those that uploads bring: some are answered with `refusal`, as by older
        servers, or the replies do not tell them."""
        self.faults = 0
        # What every write is answered while this is set: a status and the code of an error.
        self.refuses_writes: tuple[int, str] | None = None
        self.share = share
        self.checksums = checksums
        self.refusal = refusal
        self._random = random.Random(seed)
        port = ports.take()
        self.url = f"http://127.0.0.1:{port}"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                drawn = outer._random.random()
                summed = any("checksum" in name.lower() for name in self.headers)
                refusal = outer.refuses_writes if self.command in ("PUT", "POST", "DELETE") else None
                if refusal:
                    status, code = refusal
                    outer.faults += 1
                    body = f"<Error><Code>{code}</Code><Message>No writes now.</Message></Error>".encode()
                    # A client corrects its clock by what a server says.
                    date = [("Date", LONG_AGO)] if code == "RequestTimeTooSkewed" else []
                    self.answer(status, [("Content-Type", "application/xml"), *date], body)
                elif summed and self.command != "GET" and outer.refuses(self.path):
                    outer.faults += 1
                    status, code = outer.refusal
                    body = f"<Error><Code>{code}</Code><Message>Checksums are not known here.</Message></Error>".encode()
                    self.answer(status, [("Content-Type", "application/xml")], body)
                elif drawn < outer.share:
                    outer.faults += 1
                    self.answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
                elif drawn < 2 * outer.share:
                    outer.faults += 1
                    self.close_connection = True
                    self.connection.close()
                else:
                    upstream = http.client.HTTPConnection("127.0.0.1", upstream_port, timeout=60)
                    # The signature covers the Host header, so it goes through as it came.
                    upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        upstream.putheader(name, value)
                    upstream.endheaders(body)
                    reply = upstream.getresponse()
                    data = reply.read()
                    self.answer(reply.status, reply.getheaders(), data)
                    upstream.close()

            def answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if "checksum" in name.lower() and outer.checksums == "unsaid":
                        outer.faults += 1
                    elif name.lower() not in HOP_HEADERS | {"content-length"}:
                        self.send_header(name, value)
                length = dict((n.lower(), v) for n, v in headers).get("content-length")
                self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def refuses(self, path: str) -> bool:
        """Whether uploads to a path may bring no checksum."""
        of_parts = "uploadId=" in path or path.endswith("?uploads") or "?uploads&" in path
        return self.checksums == "refused" or (self.checksums == "refused with parts" and of_parts)

    def __enter__(self) -> "FaultyS3":
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
