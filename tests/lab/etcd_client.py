"""The little of etcd's JSON gateway that the lab needs."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import requests

PAGE = 10_000


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _prefix_end(prefix: bytes) -> bytes:
    return prefix[:-1] + bytes([prefix[-1] + 1])


@dataclass(frozen=True)
class EtcdClient:
    url: str

    def _call(self, path: str, body: dict) -> dict:
        reply = requests.post(f"{self.url}/v3/{path}", json=body, timeout=30)
        reply.raise_for_status()
        return reply.json()

    def keys(self, prefix: str) -> dict[str, bytes]:
        """All keys below a prefix with their values, in pages."""
        start, end = prefix.encode(), _prefix_end(prefix.encode())
        keys: dict[str, bytes] = {}
        while True:
            page = self._call("kv/range", {"key": _encode(start), "range_end": _encode(end), "limit": PAGE})
            found = [(base64.b64decode(kv["key"]), base64.b64decode(kv.get("value", ""))) for kv in page.get("kvs", [])]
            keys |= {key.decode(): value for key, value in found}
            if not page.get("more"):
                return keys
            start = found[-1][0] + b"\0"

    def get(self, key: str) -> bytes | None:
        found = self._call("kv/range", {"key": _encode(key.encode())}).get("kvs", [])
        return base64.b64decode(found[0].get("value", "")) if found else None

    def put(self, key: str, value: bytes) -> None:
        self._call("kv/put", {"key": _encode(key.encode()), "value": _encode(value)})

    def delete(self, key: str) -> None:
        self._call("kv/deleterange", {"key": _encode(key.encode())})

    def delete_prefix(self, prefix: str) -> None:
        start = prefix.encode()
        self._call("kv/deleterange", {"key": _encode(start), "range_end": _encode(_prefix_end(start))})

    def ask_for_password(self, user: str, password: str) -> None:
        """Lets nobody in any more but this user, who may do everything."""
        self._call("auth/user/add", {"name": user, "password": password})
        self._call("auth/role/add", {"name": "root"})
        self._call("auth/user/grant", {"user": user, "role": "root"})
        self._call("auth/enable", {})

    def fill(self) -> None:
        """Raises the alarm that etcd raises at its quota: from then on it refuses every write."""
        member = self._call("maintenance/status", {})["header"]["member_id"]
        self._call("maintenance/alarm", {"action": "ACTIVATE", "memberID": member, "alarm": "NOSPACE"})
