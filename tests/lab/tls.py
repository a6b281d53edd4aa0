"""Certificates for servers on loopback and for those who call them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

EXTENSIONS = """basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
"""


@dataclass(frozen=True)
class Certificates:
    """An authority, and a certificate of its own for both ends of a connection."""

    authority: Path
    certificate: Path
    key: Path


def make(directory: Path) -> Certificates:
    """Makes an authority that nobody else knows, and what it signs."""
    directory.mkdir(parents=True)
    (directory / "extensions").write_text(EXTENSIONS)

    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)

    new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl(f"req -x509 {new} -days 2 -subj /CN=authority -keyout authority.key -out authority.pem")
    openssl(f"req {new} -subj /CN=loopback -keyout loopback.key -out loopback.csr")
    signed_by = "-CA authority.pem -CAkey authority.key -CAcreateserial"
    openssl(f"x509 -req {signed_by} -days 2 -extfile extensions -in loopback.csr -out loopback.pem")
    return Certificates(directory / "authority.pem", directory / "loopback.pem", directory / "loopback.key")
