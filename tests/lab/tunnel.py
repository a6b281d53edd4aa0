"""Ports that lead to servers which do not speak TLS as their callers want it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading

from . import ports
from .tls import Certificates


def to_tls(port: int, certificates: Certificates) -> int:
    """A port without TLS that leads to the server with TLS at `port`."""
    return _start(port, None, ssl.create_default_context(cafile=certificates.authority))


def from_tls(port: int, certificates: Certificates) -> int:
    """A port with TLS, for those who show a certificate, that leads to the server without at `port`."""
    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates.authority)
    listening.load_cert_chain(certificates.certificate, certificates.key)
    listening.verify_mode = ssl.CERT_REQUIRED
    return _start(port, listening, None)


def _start(port: int, listening: ssl.SSLContext | None, calling: ssl.SSLContext | None) -> int:
    """Serves until the process ends."""
    own = ports.take()
    serves = threading.Event()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            # TLS has no half-closed connections.
            if writer.can_write_eof():
                with contextlib.suppress(OSError):
                    writer.write_eof()
            else:
                writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_server = await asyncio.open_connection("127.0.0.1", port, ssl=calling)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pass_on(reader, to_server[1]), pass_on(to_server[0], writer))
        for end in (to_server[1], writer):
            end.close()

    async def run() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", own, ssl=listening)
        serves.set()
        await server.serve_forever()

    threading.Thread(target=asyncio.run, args=(run(),), daemon=True).start()
    assert serves.wait(60), "the tunnel does not begin to serve"
    return own
