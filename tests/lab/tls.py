"""Certificates for servers on loopback and for those who call them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

EXTENSIONS = """basicConstraints = critical, CA:FALSE
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = {names}
"""
LOOPBACK = "DNS:localhost, IP:127.0.0.1"


@dataclass(frozen=True)
class Certificates:
    """An authority, and a certificate of its own for both ends of a connection."""

    authority: Path
    certificate: Path
    key: Path


NEW = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


def _openssl(directory: Path, command: str) -> None:
    subprocess.run(["openssl", *command.split()], cwd=directory, check=True, capture_output=True)


def make(directory: Path) -> Certificates:
    """Makes an authority that nobody else knows, and what it signs for loopback."""
    directory.mkdir(parents=True)
    _openssl(directory, f"req -x509 {NEW} -days 2 -subj /CN=authority -keyout authority.key -out authority.pem")
    return sign(directory / "authority.pem", "loopback", LOOPBACK)


def sign(authority: Path, file: str, names: str) -> Certificates:
    """A certificate for `names` by an authority that `make` made."""
    directory = authority.parent
    (directory / f"{file}.extensions").write_text(EXTENSIONS.format(names=names))
    _openssl(directory, f"req {NEW} -subj /CN={file} -keyout {file}.key -out {file}.csr")
    signed_by = "-CA authority.pem -CAkey authority.key -CAcreateserial"
    _openssl(directory, f"x509 -req {signed_by} -days 2 -extfile {file}.extensions -in {file}.csr -out {file}.pem")
    return Certificates(authority, directory / f"{file}.pem", directory / f"{file}.key")
