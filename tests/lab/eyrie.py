"""Runs the eyrie binary as its users do: arguments in, exit code and JSON out."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import milvus
import yaml

from . import cache, secrets
from .dataset import PASSWORDS
from .instance import ROOT_PASSWORD, Instance
from .servers import Minio

REPOSITORY_BUCKET = "eyrie-repository"
# Seconds that a run may take on a machine that is busy with other things, before it counts as stuck.
TIMEOUT = 900.0
# What eyrie logs: as it does by itself, which the demo shows; the end-to-end tests ask for all of it.
LOG = "warn"
PASSPHRASE = "correct horse battery staple"
# Milvus's own password of its root is a word that stands everywhere.
secrets.register_default("root", ROOT_PASSWORD)
for user, password in PASSWORDS.items():
    secrets.register(password, user)


def secret(path: Path, value: str) -> Path:
    if value != ROOT_PASSWORD:
        secrets.register(value)
    path.write_text(value + "\n")
    path.chmod(0o600)
    return path


def repository(instance: Instance, name: str = "primary") -> dict[str, Any]:
    """A repository for the instance: a directory, or a bucket of its MinIO."""
    passphrase = secret(instance.directory / f"{name}.passphrase", PASSPHRASE)
    entry: dict[str, Any] = {"name": name, "passphrase_file": str(passphrase)}
    if not instance.minio:
        return entry | {"url": str(instance.directory / "repositories" / name)}
    instance.make_bucket(REPOSITORY_BUCKET, versioned=False)
    s3 = {
        "endpoint": instance.minio.url,
        "region": "us-east-1",
        "path_style": True,
        "access_key_id": Minio.user,
        "secret_access_key_file": str(secret(instance.directory / "minio.secret", Minio.password)),
    }
    if instance.minio.certificates:
        s3["tls"] = {"ca_file": str(instance.minio.certificates.authority)}
    return entry | {"url": f"s3://{REPOSITORY_BUCKET}/{name}", "s3": s3}


def configure(instance: Instance, repositories: list[dict[str, Any]], name: str = "eyrie.yaml", **changes: Any) -> Path:
    """Writes eyrie's configuration for an instance; `changes` are merged into its `instance` section."""
    about: dict[str, Any] = {"version": milvus.__version__}
    section: dict[str, Any] = {
        "name": instance.name,
        "milvus_yaml": str(instance.milvus_yaml),
        "milvus": about,
    }
    # METRICS_PORT is not in milvus.yaml: one layout says it by an environment file, the others outright.
    if instance.layout == "local":
        section["milvus_env_file"] = str(instance.milvus_env)
    else:
        about["management"] = instance.milvus.management_url
    if instance.minio and instance.minio.certificates:
        tls = {"ca_file": str(instance.minio.certificates.authority)}
        section["objects"] = {"endpoint": instance.minio.url, "tls": tls}
    if instance.auth:
        password = secret(instance.directory / "milvus.password", ROOT_PASSWORD)
        about |= {"username": "root", "password_file": str(password)}
    path = instance.directory / name
    path.write_text(yaml.safe_dump({"instance": merged(section, changes), "repositories": repositories}, sort_keys=False))
    return path


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result


@dataclass
class Result:
    command: str
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)

    def __str__(self) -> str:
        return f"$ {self.command}\nexit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"


class Process(subprocess.Popen[str]):
    """A run of eyrie, whose output may hold no secret."""

    def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
        out, err = super().communicate(input, timeout)
        for name, text in (("standard output", out), ("standard error", err)):
            secrets.refuse(f"the {name} of {self.args!r}", (text or "").encode())
        return out, err


@dataclass
class Eyrie:
    """The binary with one configuration; its caches and state live beside that file."""

    binary: Path
    config: Path
    environment: dict[str, str] = field(default_factory=dict)

    def _command(self, args: tuple[str, ...]) -> list[str]:
        return [str(self.binary), "--config", str(self.config), *args]

    def env(self) -> dict[str, str]:
        """PATH with an etcd 3.5 in it, a home of its own, and nothing else of ours."""
        home = self.config.parent / "eyrie-home"
        home.mkdir(exist_ok=True)
        path = f"{cache.etcd().parent}:{os.environ['PATH']}"
        ours = {"NO_COLOR": "1", "RUST_BACKTRACE": "1", "EYRIE_STATE_DIR": str(home / "state"), "EYRIE_LOG": LOG}
        return {"PATH": path, "HOME": str(home), **ours, **self.environment}

    def start(self, *args: str) -> Process:
        return Process(
            ["setpriv", "--pdeathsig", "KILL", *self._command(args)],
            env=self.env(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, timeout: float = TIMEOUT) -> Result:
        process = self.start(*args)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise TimeoutError(f"eyrie {shlex.join(args)} ran longer than {timeout:.0f} s\n{out}\n{err}") from None
        return Result(shlex.join(["eyrie", *args]), process.returncode, out, err)

    def expect(self, code: int, *args: str, timeout: float = TIMEOUT) -> Result:
        result = self.run(*args, timeout=timeout)
        assert result.code == code, f"expected exit code {code}\n{result}"
        return result

    def json(self, *args: str, code: int = 0, timeout: float = TIMEOUT) -> Any:
        """The JSON document that a verb prints."""
        return self.expect(code, "--json", *args, timeout=timeout).json()
