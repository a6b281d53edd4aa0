"""An etcd of three members that die and come back."""

from __future__ import annotations

from pathlib import Path

from . import cache, ports
from .etcd_client import EtcdClient
from .servers import Process, http_ok, wait_until

SIZE = 3


class Member(Process):
    def __init__(self, directory: Path, number: int, peers: list[int]) -> None:
        self.name = f"etcd-{number}"
        super().__init__(directory)
        self.number, self.peers = number, peers
        self.client_port = ports.take()
        self.url = f"http://127.0.0.1:{self.client_port}"

    def argv(self) -> list[str]:
        peer = f"http://127.0.0.1:{self.peers[self.number]}"
        named = [f"m{n}=http://127.0.0.1:{port}" for n, port in enumerate(self.peers)]
        return [
            str(cache.etcd()),
            f"--name=m{self.number}",
            f"--data-dir={self.directory / self.name}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={','.join(named)}",
        ]

    def is_ready(self) -> bool:
        return http_ok(f"{self.url}/health")


class Cluster:
    def __init__(self, directory: Path) -> None:
        peers = [ports.take() for _ in range(SIZE)]
        self.members = [Member(directory, number, peers) for number in range(SIZE)]

    @property
    def endpoints(self) -> list[str]:
        return [f"127.0.0.1:{member.client_port}" for member in self.members]

    @property
    def client(self) -> EtcdClient:
        return EtcdClient(next(member.url for member in self.members if member.running))

    def start(self) -> None:
        for member in self.members:
            member.launch()
        self.await_ready()

    def await_ready(self) -> None:
        wait_until(lambda: all(member.is_ready() for member in self.members), "the cluster is healthy")

    def kill(self) -> None:
        for member in self.members:
            member.kill()
