"""One Milvus deployment in a scratch directory, in one of three layouts."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
import yaml
from minio import Minio as S3Client
from minio import MinioAdmin
from minio.commonconfig import ENABLED
from minio.credentials import StaticProvider
from minio.deleteobjects import DeleteObject
from minio.versioningconfig import VersioningConfig

from . import milvus_yaml, ports, tunnel
from .client import Client
from .etcd_client import EtcdClient
from .servers import Etcd, Milvus, Minio, Process, wait_until
from .tls import Certificates

LAYOUTS = ("embedded", "local", "s3")
ROOT_PASSWORD = "Milvus"


@dataclass
class Instance:
    """Servers, their configuration and their data, all below `directory`.

    `minio` may be another instance's server, so that two instances share one. With
    `certificates`, Milvus and an etcd of its own speak TLS with those who have one (with
    tlsMode 1 Milvus does not ask for it), and so does MinIO, with everyone (Milvus itself
    reaches it through a tunnel); the lab itself has a port of etcd without.
    """

    layout: str
    directory: Path
    auth: bool = False
    name: str = "main"
    root_path: str = "by-dev"
    bucket: str = "milvus-bucket"
    object_prefix: str = "files"
    minio: Minio | None = None
    certificates: Certificates | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.layout in LAYOUTS, f"no layout {self.layout}"
        self.directory = Path(self.directory).resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.storage = self.directory / "storage"
        self.rocksmq = self.directory / "wal" / "rocksmq"
        self.embedded_etcd = self.directory / "embedded-etcd"
        self.milvus = Milvus(self.directory, ports.take())
        self.etcd_server: Etcd | None = None
        etcd_ports = ports.take(), ports.take()
        self.etcd = EtcdClient(f"http://127.0.0.1:{etcd_ports[0]}")
        secure = (ports.take(), self.certificates) if self.certificates else None
        if self.layout != "embedded":
            self.etcd_server = Etcd(self.directory, *etcd_ports, secure)
        if self.layout == "s3" and not self.minio:
            self.minio = Minio(self.directory, ports.take(), ports.take(), self.certificates)
        self.config = self._milvus_config(*etcd_ports)
        if secure:
            self._secure(*secure)
        self.milvus_yaml = milvus_yaml.write(self.config, self.milvus.home)
        self.milvus_env = self.directory / "milvus.env"
        self.milvus_env.write_text(f"METRICS_PORT={self.milvus.metrics_port}\n")

    def _milvus_config(self, etcd_port: int, peer_port: int) -> dict[str, Any]:
        config = milvus_yaml.base(self.milvus.home)
        config["etcd"]["endpoints"] = f"127.0.0.1:{etcd_port}"
        config["etcd"]["rootPath"] = self.root_path
        config["etcd"]["use"]["embed"] = self.layout == "embedded"
        config["etcd"]["data"]["dir"] = str(self.embedded_etcd)
        config["etcd"]["log"]["path"] = str(self.directory / "logs" / "embedded-etcd.log")
        if self.layout == "embedded":
            config["etcd"]["config"] = {"path": str(self._embedded_etcd_config(etcd_port, peer_port))}
        config["localStorage"]["path"] = str(self.storage)
        config["rocksmq"]["path"] = str(self.rocksmq)
        # The default, half an hour, is how long SIGTERM waits for another node to take the segments over.
        config["common"]["gracefulStopTimeout"] = 5
        config["common"]["security"]["authorizationEnabled"] = self.auth
        if self.minio:
            config["common"]["storageType"] = "minio"
            config["minio"].update(
                address="127.0.0.1",
                port=self.minio.port,
                accessKeyID=Minio.user,
                secretAccessKey=Minio.password,
                bucketName=self.bucket,
                rootPath=self.object_prefix,
            )
            if self.minio.certificates:
                # Milvus 2.3.5 trusts the authorities of the system alone, so it goes through a tunnel.
                config["minio"]["port"] = tunnel.to_tls(self.minio.port, self.minio.certificates)
        for path, value in self.settings.items():
            *parents, last = path.split(".")
            node = config
            for parent in parents:
                node = node[parent]
            node[last] = value
        return config

    def _secure(self, etcd_port: int, certificates: Certificates) -> None:
        authority, certificate, key = map(str, (certificates.authority, certificates.certificate, certificates.key))
        etcd = self.config["etcd"]
        etcd["endpoints"] = f"127.0.0.1:{etcd_port}"
        etcd["ssl"].update(enabled=True, tlsCACert=authority, tlsCert=certificate, tlsKey=key)
        self.config["tls"] = {"serverPemPath": certificate, "serverKeyPath": key, "caPemPath": authority}
        self.config["common"]["security"]["tlsMode"] = self.settings.get("common.security.tlsMode", 2)
        # Milvus ends when its REST interface shares a port that speaks TLS.
        self.config["proxy"]["http"]["enabled"] = False

    def _embedded_etcd_config(self, client_port: int, peer_port: int) -> Path:
        client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
        path = self.directory / "embedded-etcd.yaml"
        settings = {
            "name": "default",
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "enable-grpc-gateway": True,
            "auto-compaction-mode": "revision",
            "auto-compaction-retention": "1000",
            "quota-backend-bytes": 4294967296,
        }
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.config['proxy']['port']}"

    @property
    def processes(self) -> list[Process]:
        return [p for p in (self.etcd_server, self.minio, self.milvus) if p]

    def start(self) -> None:
        """Starts all servers, and waits until Milvus is healthy."""
        self.start_backing()
        self.start_milvus()

    def start_backing(self) -> None:
        """Starts etcd and MinIO, and makes the versioned bucket."""
        backing = [p for p in (self.etcd_server, self.minio) if p and not p.running]
        for process in backing:
            process.launch()
        for process in backing:
            process.wait_ready()
        if self.minio:
            self.make_bucket(self.bucket)

    def start_milvus(self) -> None:
        (self.directory / "logs").mkdir(exist_ok=True)
        self.rocksmq.parent.mkdir(exist_ok=True)
        self.milvus.start()

    def sessions(self) -> set[int]:
        """The ids of the Milvus servers that etcd holds a session of."""
        values = self.etcd.keys(f"{self.root_path}/meta/session/").values()
        return {json.loads(value)["ServerID"] for value in values if value.startswith(b"{")}

    def await_sessions(self, most: int) -> None:
        """Waits until etcd has dropped the sessions of a Milvus that ran before (30 s after a kill).

        With `most` 1, until those of the running one are the only ones: flushes and
        loads fail until then. With 0, until nothing shows that Milvus ever ran.
        """
        wait_until(lambda: len(self.sessions()) <= most, "old sessions of Milvus are gone")

    def stop_milvus(self) -> None:
        self.milvus.stop()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()

    def kill(self) -> None:
        for process in reversed(self.processes):
            process.kill()

    def wipe(self) -> None:
        """Ends Milvus and etcd, and deletes all that the instance ever stored.

        MinIO keeps running, since a repository may live there.
        """
        self.milvus.kill()
        if self.etcd_server:
            self.etcd_server.kill()
            shutil.rmtree(self.etcd_server.data, ignore_errors=True)
        for directory in (self.storage, self.rocksmq.parent, self.embedded_etcd):
            shutil.rmtree(directory, ignore_errors=True)
        if self.minio:
            self.empty_bucket(self.bucket)

    def s3(self) -> S3Client:
        assert self.minio, f"layout {self.layout} has no MinIO"
        at = f"127.0.0.1:{self.minio.port}"
        secure = bool(self.minio.certificates)
        return S3Client(at, Minio.user, Minio.password, secure=secure, http_client=self.http())

    def http(self) -> urllib3.PoolManager | None:
        """What trusts the authority of this MinIO, where it has one of its own."""
        certificates = self.minio.certificates if self.minio else None
        return urllib3.PoolManager(ca_certs=str(certificates.authority)) if certificates else None

    def make_user(self, name: str, password: str, actions: list[str]) -> None:
        """A user of MinIO that may do what `actions` name, and no more."""
        assert self.minio, f"layout {self.layout} has no MinIO"
        root = StaticProvider(Minio.user, Minio.password)
        at, secure = f"127.0.0.1:{self.minio.port}", bool(self.minio.certificates)
        admin = MinioAdmin(endpoint=at, credentials=root, secure=secure, http_client=self.http())
        statement = {"Effect": "Allow", "Action": actions, "Resource": ["arn:aws:s3:::*"]}
        admin.policy_add(name, policy={"Version": "2012-10-17", "Statement": [statement]})
        admin.user_add(name, password)
        admin.policy_set(name, user=name)

    def make_bucket(self, bucket: str, versioned: bool = True) -> None:
        s3 = self.s3()
        if not s3.bucket_exists(bucket):
            s3.make_bucket(bucket)
            if versioned:
                s3.set_bucket_versioning(bucket, VersioningConfig(ENABLED))

    def empty_bucket(self, bucket: str) -> None:
        """Deletes all objects of a bucket, every version of them."""
        s3 = self.s3()
        listed = s3.list_objects(bucket, recursive=True, include_version=True)
        errors = s3.remove_objects(bucket, (DeleteObject(o.object_name, o.version_id) for o in listed))
        assert not list(errors)

    def client(self, user: str = "root", password: str = ROOT_PASSWORD) -> Client:
        if not self.certificates:
            return Client(self.address, user, password)
        certificates = self.certificates
        tls = {
            "secure": True,
            "server_name": "localhost",
            "ca_pem_path": str(certificates.authority),
            "client_pem_path": str(certificates.certificate),
            "client_key_path": str(certificates.key),
        }
        return Client(self.address, user, password, tls)

    def endpoints(self) -> dict[str, Any]:
        """What someone outside needs to reach the instance."""
        found: dict[str, Any] = {
            "layout": self.layout,
            "milvus": self.address,
            "management": self.milvus.management_url,
            "milvus_yaml": str(self.milvus_yaml),
            "milvus_env_file": str(self.milvus_env),
            "etcd": self.etcd.url,
            "root_path": self.root_path,
            "storage": str(self.storage),
            "rocksmq": str(self.rocksmq),
            "pids": {p.name: p.pid for p in self.processes if p.running},
        }
        if self.auth:
            found |= {"username": "root", "password": ROOT_PASSWORD}
        if self.minio:
            found["s3"] = {
                "endpoint": self.minio.url,
                "bucket": self.bucket,
                "prefix": self.object_prefix,
                "access_key_id": Minio.user,
                "secret_access_key": Minio.password,
            }
        return found
