"""A restore destroys nothing that it should not, on real servers: wiped, replaced, killed, used meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from conftest import Lab, objects_of
from lab import eyrie as lab_eyrie
from lab import oracle, ports
from lab.cluster import Cluster
from lab.etcd_client import EtcdClient
from lab.eyrie import TIMEOUT, Eyrie, Result
from lab.faults import FaultyS3
from lab.instance import LAYOUTS, Instance
from lab.made import Made
from lab.servers import Etcd, wait_until
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema

# Rows of a collection that is flushed: fewer get no index file.
ROWS = 1_500
# How often the members of an etcd are killed during a swap; the environment asks for more.
CLUSTER_RUNS = int(os.environ.get("EYRIE_CLUSTER_RUNS", "4"))


def add(instance: Instance, name: str, rows: int = ROWS, ttl: int | None = None) -> None:
    """A loaded collection whose rows are flushed, and one row more that is not."""
    fields = [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("v", DataType.FLOAT_VECTOR, dim=4)]
    with instance.client() as client:
        properties = {"collection.ttl.seconds": ttl} if ttl else None
        collection = Collection(name, CollectionSchema(fields), using=client.using(), properties=properties)
        collection.insert([{"id": n, "v": [float(n), 1.0, 2.0, 3.0]} for n in range(rows)])
        collection.flush()
        collection.create_index("v", {"index_type": "HNSW", "metric_type": "L2", "params": {"M": 8, "efConstruction": 32}})
        collection.load()
        collection.insert([{"id": rows, "v": [0.5, 1.0, 2.0, 3.0]}])


def look(instance: Instance) -> oracle.View:
    with instance.client() as client:
        return oracle.snapshot_instance(client, storage_is_local=True)


@dataclass
class Site:
    """An instance with a snapshot, to which a collection came later."""

    lab: Lab
    eyrie: Eyrie
    then: oracle.View
    now: oracle.View

    @property
    def instance(self) -> Instance:
        return self.lab.instance


def stored(layout: str, name: str, fresh: Callable[..., Lab], binary: Path) -> tuple[Lab, Eyrie, oracle.View]:
    """A running instance with a collection of that name, its snapshot, and what it showed; authorisation is on."""
    lab = fresh(layout, auth=True)
    lab.instance.start()
    add(lab.instance, name)
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    eyrie.expect(0, "backup", *lab.mode)
    return lab, eyrie, look(lab.instance)


def site(layout: str, fresh: Callable[..., Lab], binary: Path) -> Site:
    """Milvus is stopped when this ends."""
    lab, eyrie, then = stored(layout, "before", fresh, binary)
    add(lab.instance, "later")
    now = look(lab.instance)
    lab.instance.stop_milvus()
    return Site(lab, eyrie, then, now)


def stage(instance: Instance) -> str | None:
    """How far a restore onto an etcd of its own came."""
    found = instance.etcd.get(f"{instance.root_path}/eyrie/restore-stage")
    return found.decode() if found else None


def stop_at(eyrie: Eyrie, phase: str, how: signal.Signals, *args: str) -> Result | None:
    """Sends a signal when a phase begins, and gives the rest; `None` when there was no such phase."""
    process = eyrie.start("--progress", "json", *args)
    assert process.stderr
    seen = []
    reached = False
    for line in process.stderr:
        seen.append(line)
        told = json.loads(line) if line.startswith("{") else {}
        if told.get("event") == "begin" and told.get("phase") == phase:
            process.send_signal(how)
            reached = True
            break
    out, err = process.communicate(timeout=TIMEOUT)
    result = Result(" ".join(args), process.returncode, out, "".join(seen) + err)
    return result if reached else None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_wiped_instance_comes_back_onto_itself(layout: str, fresh: Callable[..., Lab], binary: Path) -> None:
    """The README's way, with authorisation on: no other target, nothing left but the repository."""
    lab, eyrie, before = stored(layout, "articles", fresh, binary)
    instance = lab.instance
    # A plan needs no stopped target: it says what has to be stopped.
    plan = eyrie.json("restore", "latest", "--replace", "--dry-run")
    assert plan["refusals"] == [] and any("something answers" in sign for sign in plan["to_stop"]), plan
    assert eyrie.expect(21, "restore", "latest", "--replace").err.count("Milvus is running")
    instance.wipe()
    instance.start_backing()
    eyrie.expect(0, "restore", "latest")
    instance.start_milvus()
    assert oracle.compare(before, look(instance)) == []
    instance.kill()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_old_instance_is_whole_until_the_swap_and_the_same_command_ends_it(
    layout: str, fresh: Callable[..., Lab], binary: Path
) -> None:
    one = site(layout, fresh, binary)
    instance, onto = one.instance, ("restore", "latest", "--replace")
    for phase, how in [("prove", signal.SIGKILL), ("objects", signal.SIGTERM), ("objects", signal.SIGKILL)]:
        stopped = stop_at(one.eyrie, phase, how, *onto)
        assert stopped and stopped.code in (-9, 143), f"{phase}: {stopped}"
        if how == signal.SIGTERM:
            assert "nothing was replaced" in stopped.err and "restore" in stopped.err, stopped
        assert layout == "embedded" or stage(instance) in (None, "objects")
    instance.start_milvus()
    assert oracle.compare(one.now, look(instance)) == []
    instance.stop_milvus()
    for phase, how in [("keys", signal.SIGKILL), ("keys", signal.SIGTERM), ("remove", signal.SIGKILL)]:
        stop_at(one.eyrie, phase, how, *onto)
    one.eyrie.expect(0, *onto)
    instance.start_milvus()
    assert oracle.compare(one.then, look(instance)) == []
    assert {entry["path"] for entry in one.eyrie.json("ls", "latest")} == set(objects_of(instance))
    instance.kill()


def test_what_milvus_writes_during_or_after_the_clean_up_stays(fresh: Callable[..., Lab], binary: Path) -> None:
    one = site("local", fresh, binary)
    instance, onto = one.instance, ("restore", "latest", "--replace")
    garbage = instance.storage / "insert_log" / "7" / "7" / "7"
    garbage.mkdir(parents=True)
    for n in range(2_000):
        (garbage / str(n)).write_text("old")
    # Milvus is started while the old objects are being removed.
    process = one.eyrie.start("--progress", "json", *onto)
    assert process.stderr
    for line in process.stderr:
        if '"begin"' in line and '"remove"' in line:
            process.send_signal(signal.SIGSTOP)
            break
    left = len(list(garbage.iterdir()))
    assert left > 500, f"{left} are left, nothing was stopped in the middle"
    instance.start_milvus()
    process.send_signal(signal.SIGCONT)
    _, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 21, err
    assert "Milvus" in err and "to go on" in err, err
    # A batch may have been on its way.
    assert len(list(garbage.iterdir())) > left - 600
    assert oracle.compare(one.then, look(instance)) == []

    # A day's rows; then somebody runs the same command again.
    add(instance, "next_day")
    after = look(instance)
    instance.stop_milvus()
    refused = one.eyrie.expect(21, *onto)
    assert "has run" in refused.err and "etcdctl del --prefix" in refused.err, refused
    assert "has run" in one.eyrie.expect(21, *onto, "--dry-run").out
    instance.start_milvus()
    assert oracle.compare(after, look(instance)) == []
    instance.kill()


@pytest.mark.s3
def test_who_may_not_delete_is_told_before_anything_is_replaced(fresh: Callable[..., Lab], binary: Path) -> None:
    one = site("s3", fresh, binary)
    instance = one.instance
    assert instance.minio
    instance.make_user("writer", "writer-secret", ["s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:GetBucketLocation"])
    config = yaml.safe_load(one.eyrie.config.read_text())
    secret = lab_eyrie.secret(instance.directory / "writer.secret", "writer-secret")
    config["instance"]["objects"] = {"access_key_id": "writer", "secret_access_key_file": str(secret)}
    path = instance.directory / "eyrie-writer.yaml"
    path.write_text(yaml.safe_dump(config))
    refused = Eyrie(binary, path).expect(21, "restore", "latest", "--replace")
    assert "s3:DeleteObject" in refused.err, refused
    assert stage(instance) is None
    instance.start_milvus()
    assert oracle.compare(one.now, look(instance)) == []
    instance.stop_milvus()
    # What the probe could not remove is not taken for content.
    assert any(".eyrie-probe/" in o.object_name for o in instance.s3().list_objects(instance.bucket, recursive=True))
    one.eyrie.expect(0, "restore", "latest", "--replace")
    instance.start_milvus()
    assert oracle.compare(one.then, look(instance)) == []
    instance.kill()


def test_an_instance_below_the_root_is_never_touched(fresh: Callable[..., Lab], binary: Path) -> None:
    one = site("local", fresh, binary)
    instance = one.instance
    shared = {"etcd.endpoints": instance.config["etcd"]["endpoints"]}
    inner = fresh("local", root_path=f"{instance.root_path}/b", settings=shared)
    inner.instance.etcd = instance.etcd
    inner.instance.start()
    add(inner.instance, "inner", rows=10)
    kept = instance.etcd.keys(f"{inner.instance.root_path}/meta/")
    refused = one.eyrie.expect(21, "restore", "latest", "--replace")
    assert inner.instance.root_path in refused.err, refused
    # Its sessions are gone, its keys are not.
    inner.instance.stop_milvus()
    instance.start_milvus()
    found = one.eyrie.json("check")["findings"]
    assert any(inner.instance.root_path in finding["what"] for finding in found), found
    one.eyrie.expect(0, "backup")
    instance.stop_milvus()
    plan = one.eyrie.json("restore", "latest", "--replace", "--dry-run", code=21)
    assert inner.instance.root_path in plan["refusals"][0]
    assert kept.keys() - instance.etcd.keys(f"{inner.instance.root_path}/meta/").keys() <= {
        key for key in kept if "/session/" in key
    }
    # A snapshot that was taken beside it brings none of its keys to another target.
    target = fresh("local", auth=True)
    target.instance.start_backing()
    one.eyrie.expect(0, "restore", "latest", "--target", str(target.eyrie(binary).config))
    assert not any("/b/meta/" in key for key in target.instance.etcd.keys(f"{target.instance.root_path}/"))
    for lab in (target, inner, one.lab):
        lab.instance.kill()


def test_a_dead_endpoint_is_passed_over_by_every_verb(fresh: Callable[..., Lab], binary: Path) -> None:
    lab = fresh("local")
    instance = lab.instance
    instance.start()
    add(instance, "articles")
    live = instance.config["etcd"]["endpoints"]
    eyrie = lab.eyrie(binary, etcd={"endpoints": ["127.0.0.1:1", live]})
    eyrie.expect(0, "init")
    checked = eyrie.json("check")
    assert any("127.0.0.1:1" in finding["what"] for finding in checked["findings"]), checked
    assert any(finding["kind"] == "etcd-quota" for finding in checked["findings"]), checked
    assert "127.0.0.1:1" in eyrie.expect(0, "backup").err
    before = look(instance)
    instance.wipe()
    instance.start_backing()
    eyrie.expect(0, "restore", "latest")
    instance.start_milvus()
    assert oracle.compare(before, look(instance)) == []
    instance.kill()
    refused = eyrie.expect(20, "check")
    assert live in refused.out and "127.0.0.1:1" in refused.out, refused


def test_the_queue_and_the_time_to_live_come_back_as_asked(fresh: Callable[..., Lab], binary: Path) -> None:
    lab = fresh("local", auth=True)
    instance = lab.instance
    instance.start()
    add(instance, "expiring", ttl=3_600)
    instance.stop_milvus()
    eyrie = lab.eyrie(binary)
    eyrie.expect(0, "init")
    eyrie.expect(0, "backup", "--mode", "cold")
    instance.wipe()
    instance.start_backing()
    done = eyrie.json("restore", "latest", "--keep-wal", "--suspend-ttl", "--read-back")
    assert done["wal"] == "captured"
    instance.start_milvus()
    with instance.client() as client:
        collection = client.collection("default", "expiring")
        assert collection.describe()["properties"]["collection.ttl.seconds"] == "0"
        collection.load()
        # The row that was never flushed is in the queue alone.
        wait_until(lambda: len(collection.query(f"id == {ROWS}")) == 1, "the row in the queue is there")
        assert len(oracle.read_rows(collection, with_vectors=False)) == ROWS + 1
    instance.kill()


def test_directories_that_hold_what_is_to_stay_are_refused(known: Eyrie, fresh: Callable[..., Lab], binary: Path) -> None:
    target = fresh("local")
    instance = target.instance
    instance.start_backing()
    config = target.eyrie(binary, wal={"kind": "rocksmq", "path": str(instance.directory)}).config
    instance.storage.mkdir()
    kept = instance.storage / "kept"
    kept.write_text("kept")
    refused = known.expect(21, "restore", "latest", "--replace", "--target", str(config))
    assert "holds the storage root" in refused.err and kept.exists(), refused
    instance.kill()


@pytest.mark.s3
def test_a_store_that_refuses_checksums_is_written_without(known: Eyrie, fresh: Callable[..., Lab], binary: Path) -> None:
    target = fresh("s3", auth=True)
    instance = target.instance
    instance.start_backing()
    assert instance.minio
    with FaultyS3(instance.minio.port, checksums="refused") as store:
        config = target.eyrie(binary, objects={"endpoint": store.url}).config
        done = known.expect(0, "restore", "latest", "--target", str(config))
        assert store.faults and "takes no upload with a checksum" in done.err, done
    assert set(objects_of(instance)) == {entry["path"] for entry in known.json("ls", "latest")}
    instance.kill()


@pytest.mark.embedded
def test_what_an_embedded_etcd_left_is_replaced_or_refused_at_once(
    known: Eyrie, fresh: Callable[..., Lab], binary: Path
) -> None:
    target = fresh("embedded", auth=True)
    instance = target.instance
    left = Etcd(instance.directory, ports.take(), ports.take())
    left.data = instance.embedded_etcd
    left.start()
    EtcdClient(left.client_url).put("somebody/else", b"x")
    left.stop()
    config = str(target.eyrie(binary).config)
    onto = ("restore", "latest", "--target", config)
    refused = known.expect(21, *onto)
    assert "has data already" in refused.err, refused
    assert not instance.storage.exists()
    # A program that would prepare what Milvus cannot open.
    newer = instance.directory / "etcd-3.6"
    newer.write_text("#!/bin/sh\necho 'etcd Version: 3.6.1'\n")
    newer.chmod(0o755)
    wrong = target.eyrie(binary, "newer", etcd={"binary": str(newer)}).config
    refused = known.expect(21, "restore", "latest", "--replace", "--target", str(wrong))
    assert "etcd 3.6.1" in refused.err and not instance.storage.exists(), refused
    known.expect(0, *onto, "--replace")
    instance.start_milvus()
    instance.kill()


@dataclass
class Clustered:
    cluster: Cluster
    eyrie: Eyrie
    made: Made


@pytest.fixture(scope="module")
def clustered(scratch: Path, binary: Path) -> Iterator[Clustered]:
    """A snapshot of a made instance of some thousand keys, and an empty etcd of three members."""
    made = Made(6_000)
    source = Instance("local", scratch / "clustered", name="clustered")
    source.start_backing()
    made.fill(source)
    eyrie = Eyrie(binary, lab_eyrie.configure(source, [lab_eyrie.repository(source)]))
    eyrie.expect(0, "init")
    eyrie.expect(0, "backup", "--mode", "cold")
    cluster = Cluster(scratch / "cluster")
    cluster.start()
    yield Clustered(cluster, eyrie, made)
    cluster.kill()
    source.kill()


def test_a_swap_completes_while_members_of_etcd_die_simulated_instance(
    clustered: Clustered, scratch: Path, binary: Path
) -> None:
    cluster = clustered.cluster
    target = Instance("local", scratch / "clustered-target", name="clustered-target")
    repositories = yaml.safe_load(clustered.eyrie.config.read_text())["repositories"]
    config = lab_eyrie.configure(target, repositories, etcd={"endpoints": cluster.endpoints})
    onto = ("restore", "latest", "--replace", "--target", str(config))
    clustered.eyrie.expect(0, *onto)
    wanted = data_of(cluster, target)
    moments = random.Random(16)
    for run in range(CLUSTER_RUNS):
        # Something to replace: a key that is gone, one that is new, one that is other.
        changed = random.Random(run).sample(sorted(wanted), 3)
        cluster.client.put(changed[0], b"other")
        cluster.client.delete(changed[1])
        cluster.client.put(f"{changed[2]}/new", b"new")
        cluster.client.put(f"{target.root_path}/meta/session/id", b"900")
        process = clustered.eyrie.start("--progress", "json", *onto)
        assert process.stderr
        seen = []
        phase = moments.choice(["objects", "keys", "keys", "remove"])
        for line in process.stderr:
            seen.append(line)
            if '"begin"' in line and f'"{phase}"' in line:
                break
        time.sleep(moments.uniform(0, 0.3))
        victim = moments.choice(cluster.members)
        how = moments.choice(["kill", "mute"])
        if how == "kill":
            victim.kill()
        else:
            os.kill(victim.pid, signal.SIGSTOP)
        _, err = process.communicate(timeout=TIMEOUT)
        told = f"run {run}: {victim.name} {how} in {phase}: {process.returncode}\n{''.join(seen)}{err}"
        if how == "kill":
            victim.launch()
        else:
            os.kill(victim.pid, signal.SIGCONT)
        cluster.await_ready()
        assert process.returncode == 0, told
        assert data_of(cluster, target) == wanted, told


def data_of(cluster: Cluster, target: Instance) -> dict[str, bytes]:
    """The keys that every restore of the snapshot writes alike."""
    areas = ("meta/root-coord", "meta/datacoord-meta", "meta/field-index", "meta/segment-index")
    found: dict[str, bytes] = {}
    for area in areas:
        found |= cluster.client.keys(f"{target.root_path}/{area}/")
    return found
