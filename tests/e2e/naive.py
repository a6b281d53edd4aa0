"""A restore by hand: what an operator with etcdctl and cp would do on an idle instance.

It shows, without eyrie, that the oracle accepts a good restore and sees a bad one.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from conftest import objects_of
from lab import ports
from lab.etcd_client import EtcdClient
from lab.instance import Instance
from lab.servers import Etcd
from pymilvus import utility


def copy(source: Instance, target: Instance, keep: Callable[[str], bool] = lambda key: True) -> None:
    """Copies keys and objects of an idle source to a target that never ran."""
    with source.client() as client:
        connections = [client.using(database) for database in client.databases()]
        # FlushAll of 2.3.5 flushes one database, but is finished when all of them are: together, or never.
        with ThreadPoolExecutor(len(connections)) as pool:
            list(pool.map(lambda using: utility.flush_all(using=using), connections))
    session = f"{source.root_path}/meta/session/"
    found = source.etcd.keys(f"{source.root_path}/")
    keys = {k: v for k, v in found.items() if keep(k) and (not k.startswith(session) or k == f"{session}id")}
    target.start_backing()
    put_objects(target, objects_of(source))
    if target.etcd_server:
        put_keys(target.etcd, keys)
        return
    etcd = Etcd(target.directory, ports.take(), ports.take())
    etcd.start()
    put_keys(EtcdClient(etcd.client_url), keys)
    etcd.stop()
    shutil.move(etcd.data, target.embedded_etcd)


def put_keys(etcd: EtcdClient, keys: dict[str, bytes]) -> None:
    for key, value in keys.items():
        etcd.put(key, value)


def put_objects(target: Instance, objects: dict[str, bytes]) -> None:
    for path, data in objects.items():
        if target.minio:
            target.s3().put_object(target.bucket, f"{target.object_prefix}/{path}", io.BytesIO(data), len(data))
        else:
            file = target.storage / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
