"""pymilvus connections of one instance, one per database."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from pymilvus import Collection, connections, db, utility

_serial = itertools.count()


@dataclass
class Client:
    """A user's view of an instance; make a new one after Milvus was restarted."""

    address: str
    user: str
    password: str
    tls: dict[str, Any] = field(default_factory=dict)
    _aliases: dict[str, str] = field(default_factory=dict)

    def using(self, database: str = "default") -> str:
        """The pymilvus alias of a connection to a database."""
        if database not in self._aliases:
            alias = f"lab-{next(_serial)}"
            host, port = self.address.split(":")
            as_user = {"user": self.user, "password": self.password, "db_name": database}
            connections.connect(alias, host=host, port=port, timeout=30, **as_user, **self.tls)
            self._aliases[database] = alias
        return self._aliases[database]

    def databases(self) -> list[str]:
        return sorted(db.list_database(using=self.using()))

    def collections(self, database: str) -> list[str]:
        return sorted(utility.list_collections(using=self.using(database)))

    def collection(self, database: str, name: str) -> Collection:
        return Collection(name, using=self.using(database))

    def close(self) -> None:
        for alias in self._aliases.values():
            connections.remove_connection(alias)
        self._aliases.clear()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
