"""Server processes: etcd, MinIO and Milvus.

Each child dies with the lab (parent-death signal), whatever ends the lab; a
clean end stops them by pid, newest first. Start them from the main thread: the
signal is tied to the thread that started them.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from . import cache
from .tls import Certificates

_running: list["Process"] = []


@atexit.register
def stop_all() -> None:
    for process in reversed(list(_running)):
        process.kill()


def http_ok(url: str) -> bool:
    """Whether it answers with 200; whose certificate it shows does not matter."""
    anyone = ssl._create_unverified_context()
    try:
        with urllib.request.urlopen(url, timeout=2, context=anyone) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


def wait_until(done: Callable[[], bool], what: str, timeout: float = 300.0) -> None:
    """Waits; `timeout`, in seconds, is for what will never come, not for what is slow."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:.0f} s")
        time.sleep(0.2)


class Process:
    """One server: start, wait until ready, stop or kill."""

    name = "server"
    start_timeout = 300.0

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = directory / "logs" / f"{self.name}.log"
        self.child: subprocess.Popen[bytes] | None = None

    def argv(self) -> list[str]:
        raise NotImplementedError

    def env(self) -> dict[str, str]:
        return {}

    def cwd(self) -> Path:
        return self.directory

    def is_ready(self) -> bool:
        raise NotImplementedError

    @property
    def pid(self) -> int:
        assert self.child, f"{self.name} was not started"
        return self.child.pid

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def launch(self) -> None:
        """Starts the process without waiting for it to serve."""
        assert not self.running, f"{self.name} runs already"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.cwd().mkdir(parents=True, exist_ok=True)
        # Nothing of ours may leak into the servers: Milvus reads variables like MINIO_ADDRESS.
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
        with open(self.log, "ab") as log:
            self.child = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.argv()],
                cwd=self.cwd(),
                env={**inherited, "LANG": "C.UTF-8", **self.env()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _running.append(self)

    def wait_ready(self) -> None:
        deadline = time.monotonic() + self.start_timeout
        while not self.is_ready():
            if not self.running:
                raise RuntimeError(f"{self.name} ended while starting, see {self.log}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} is not ready after {self.start_timeout:.0f} s, see {self.log}")
            time.sleep(0.1)

    def start(self) -> None:
        self.launch()
        self.wait_ready()

    def stop(self, timeout: float = 60.0) -> None:
        """SIGTERM, and SIGKILL where that did not end it in time."""
        if self.running:
            os.kill(self.pid, signal.SIGTERM)
            try:
                self.child.wait(timeout)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def kill(self) -> None:
        """SIGKILL; no chance to flush anything."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)
            self.child.wait()
        if self in _running:
            _running.remove(self)

    def log_tail(self, lines: int = 20) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Etcd(Process):
    name = "etcd"

    def __init__(
        self, directory: Path, client_port: int, peer_port: int, secure: tuple[int, Certificates] | None = None
    ) -> None:
        """`secure`: another port, on which it speaks TLS with those who show a certificate."""
        super().__init__(directory)
        self.data = directory / "etcd"
        self.client_url = f"http://127.0.0.1:{client_port}"
        self.peer_url = f"http://127.0.0.1:{peer_port}"
        self.client_urls = [self.client_url]
        self.security: list[str] = []
        if secure:
            port, certificates = secure
            self.client_urls.append(f"https://127.0.0.1:{port}")
            self.security = [
                "--client-cert-auth",
                f"--trusted-ca-file={certificates.authority}",
                f"--cert-file={certificates.certificate}",
                f"--key-file={certificates.key}",
            ]

    def argv(self) -> list[str]:
        # Compaction and quota as Milvus's compose file sets them.
        return [
            str(cache.etcd()),
            f"--data-dir={self.data}",
            f"--listen-client-urls={','.join(self.client_urls)}",
            f"--advertise-client-urls={','.join(self.client_urls)}",
            *self.security,
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            f"--initial-cluster=default={self.peer_url}",
            "--auto-compaction-mode=revision",
            "--auto-compaction-retention=1000",
            "--quota-backend-bytes=4294967296",
            "--snapshot-count=50000",
        ]

    def is_ready(self) -> bool:
        return http_ok(f"{self.client_url}/health")


class Minio(Process):
    name = "minio"
    user = "minioadmin"
    password = "minio-root-secret"

    def __init__(self, directory: Path, port: int, console_port: int, certificates: Certificates | None = None) -> None:
        """With `certificates` it speaks TLS."""
        super().__init__(directory)
        self.data = directory / "minio"
        self.port = port
        self.console_port = console_port
        self.certificates = certificates
        self.url = f"{'https' if certificates else 'http'}://127.0.0.1:{port}"
        self.security: list[str] = []
        if certificates:
            of_server = directory / "minio-certificates"
            of_server.mkdir(parents=True)
            shutil.copy(certificates.certificate, of_server / "public.crt")
            shutil.copy(certificates.key, of_server / "private.key")
            self.security = [f"--certs-dir={of_server}"]

    def argv(self) -> list[str]:
        listen = ["--address", f"127.0.0.1:{self.port}", "--console-address", f"127.0.0.1:{self.console_port}"]
        return [str(cache.minio()), "server", "--quiet", *self.security, str(self.data), *listen]

    def env(self) -> dict[str, str]:
        return {
            "MINIO_ROOT_USER": self.user,
            "MINIO_ROOT_PASSWORD": self.password,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }

    def is_ready(self) -> bool:
        return http_ok(f"{self.url}/minio/health/ready")


class Milvus(Process):
    name = "milvus"

    def __init__(self, directory: Path, metrics_port: int) -> None:
        super().__init__(directory)
        self.home = directory / "milvus"
        self.metrics_port = metrics_port
        self.management_url = f"http://127.0.0.1:{metrics_port}"

    def argv(self) -> list[str]:
        return [str(cache.milvus_bin() / "milvus"), "run", "standalone"]

    def env(self) -> dict[str, str]:
        return {
            "LD_LIBRARY_PATH": str(cache.milvus_bin()),
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(self.metrics_port),
        }

    def cwd(self) -> Path:
        return self.home

    def is_ready(self) -> bool:
        return http_ok(f"{self.management_url}/healthz")
