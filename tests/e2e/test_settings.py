"""Every setting of the configuration, through the command, on real servers; and none that is left out here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, Lab
from lab import cache, secrets, tls
from lab import eyrie as lab_eyrie
from lab.eyrie import Eyrie, merged, secret
from lab.instance import ROOT_PASSWORD, Instance
from lab.reader import Repository
from minio.credentials import AssumeRoleProvider
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema

SCHEMA = json.loads((REPOSITORY / "docs" / "schemas" / "config.json").read_text())
# A store asks nobody for a certificate: these are refused by name, below and in test_tls.
REFUSED = {
    f"{section}.tls.{key}" for section in ("instance.objects", "repositories[].s3") for key in ("cert_file", "key_file")
}


def settings(node: dict[str, Any], path: str = "") -> Iterator[str]:
    """The paths of all settings in a part of the schema."""
    node = SCHEMA["$defs"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
    for kind in ("anyOf", "oneOf", "allOf"):
        for option in node.get(kind, []):
            yield from settings(option, path)
    for name, value in node.get("properties", {}).items():
        inner = f"{path}.{name}" if path else name
        yield inner
        yield from settings(value, inner)
    if isinstance(node.get("items"), dict):
        yield from settings(node["items"], f"{path}[]")


def said(node: Any, path: str = "") -> Iterator[str]:
    """The paths of all settings in a configuration; a map from path to path is a setting of its own."""
    if isinstance(node, dict) and path != "instance.path_map":
        for name, value in node.items():
            inner = f"{path}.{name}" if path else name
            yield inner
            yield from said(value, inner)
    if isinstance(node, list):
        for value in node:
            yield from said(value, f"{path}[]")


def run(binary: Path, directory: Path, name: str, config: dict[str, Any]) -> Eyrie:
    path = directory / f"eyrie-{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return Eyrie(binary, path)


def downloaded(lab: Lab, name: str, directory: Path) -> Path:
    """A copy of a repository that lies in the instance's MinIO."""
    s3 = lab.instance.s3()
    for found in s3.list_objects(lab_eyrie.REPOSITORY_BUCKET, f"{name}/", recursive=True):
        s3.fget_object(lab_eyrie.REPOSITORY_BUCKET, found.object_name, str(directory / found.object_name))
    return directory / name


def at(config: Any, path: str) -> Any:
    """The value of a setting; of a list of sections the first one's."""
    for name in path.replace("[]", ".0").split("."):
        config = config[int(name)] if name.isdigit() else config[name]
    return config


def in_force(eyrie: Eyrie) -> None:
    """Every setting of the file is in force as it says; secrets and files of secrets are shown as they are masked."""
    shown = {setting["key"]: setting for setting in eyrie.json("config", "show")["settings"]}
    config = yaml.safe_load(eyrie.config.read_text())
    others: list[Any] = []
    for path in said(config):
        key = path.replace("[]", "[0]")
        if key in ("accept", "instance.accept"):
            assert shown["accept"]["value"] == "hot-straddle, milvus-differs", "both lists count"
            continue
        inner = [name for name in shown if name.startswith(f"{key}.") or name.startswith(f"{key}[")]
        assert inner or key in shown, f"{key} is not shown: {sorted(shown)}"
        # Sizes are shown in a unit that fits.
        if key in shown and not key.startswith("resources."):
            expected = at(config, path)
            if key == "instance.milvus_yaml" and shown[key]["value"] in expected:
                # One line a file.
                continue
            if isinstance(expected, dict):
                expected = [f"{inside} -> {here}" for inside, here in expected.items()]
            expected = ", ".join(expected) if isinstance(expected, list) else str(expected)
            expected = expected.lower() if expected in ("True", "False") else expected
            if (shown[key]["value"], shown[key]["origin"]) != (expected, "explicit"):
                others.append((expected, shown[key]))
    assert not others


def fill(instance: Instance) -> None:
    fields = [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("v", DataType.FLOAT_VECTOR, dim=4)]
    with instance.client() as client:
        collection = Collection("few", CollectionSchema(fields), using=client.using())
        collection.insert([{"id": 1, "v": [1.0, 2.0, 3.0, 4.0]}])


# Every rule; a repository's own policy takes the place of the one at the top.
RETENTION = {
    "keep_last": 2,
    "keep_hourly": 3,
    "keep_daily": 7,
    "keep_weekly": 4,
    "keep_monthly": 12,
    "keep_yearly": "all",
    "keep_within": "2d",
    "keep_label": ["keep=yes", "why=audit"],
    "time_zone": "Europe/Berlin",
}


def common(instance: Instance, repositories: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "instance": {
            "name": instance.name,
            "accept": ["milvus-differs"],
            "wal": {"kind": "rocksmq", "path": str(instance.rocksmq), "channel_prefix": "by-dev"},
            "milvus": {
                "address": instance.address,
                "management": instance.milvus.management_url,
                "version": "2.3.5",
                "username": "root",
                "password_file": str(secret(instance.directory / "milvus.password", ROOT_PASSWORD)),
            },
        },
        "repositories": repositories,
        "resources": {"threads": 2, "memory": "128MiB", "rate": "500MiB"},
        "state_dir": str(instance.directory / "state"),
        "accept": ["hot-straddle"],
        "retention": RETENTION,
    }


def explicit(lab: Lab, certificates: tls.Certificates) -> dict[str, Any]:
    """The configuration of an instance on MinIO under TLS, without a milvus.yaml."""
    instance = lab.instance
    assert instance.minio
    instance.make_user("eyrie", "eyrie-user-secret", ["s3:*"])
    sts = AssumeRoleProvider(
        sts_endpoint=instance.minio.url,
        access_key="eyrie",
        secret_key="eyrie-user-secret",
        duration_seconds=3600,
        http_client=instance.http(),
    ).retrieve()
    trusted = {"enabled": True, "ca_file": str(certificates.authority), "server_name": "localhost"}
    own = {**trusted, "cert_file": str(certificates.certificate), "key_file": str(certificates.key)}
    s3 = {
        "endpoint": instance.minio.url,
        "region": "us-east-1",
        "path_style": True,
        "access_key_id": sts.access_key,
        "secret_access_key_file": str(secret(instance.directory / "sts.secret", sts.secret_key)),
        "session_token_file": str(secret(instance.directory / "sts.token", str(sts.session_token))),
        "checksum": "crc32c",
        "tls": trusted,
    }
    [repository] = [lab_eyrie.repository(instance, "explicit")]
    config = common(instance, [repository | {"s3": s3, "retention": RETENTION | {"keep_last": 1, "keep_daily": "all"}}])
    about: dict[str, Any] = {
        "milvus": {"tls": own},
        "etcd": {
            "endpoints": [instance.config["etcd"]["endpoints"]],
            "root_path": instance.root_path,
            "meta_sub_path": "meta",
            "kv_sub_path": "kv",
            "tls": own,
        },
        "objects": {"type": "s3", "bucket": instance.bucket, "prefix": instance.object_prefix, **s3},
    }
    return merged(config, {"instance": about})


def discovered(lab: Lab) -> dict[str, Any]:
    """The configuration of an instance with etcd inside, with all that says where its files are."""
    instance = lab.instance
    config = common(instance, [lab_eyrie.repository(instance, "discovered")])
    # As in a container: where this host has it says the map, not the file.
    del config["instance"]["wal"]["path"]
    user = instance.directory / "user.yaml"
    user.write_text(yaml.safe_dump({"rocksmq": {"path": "/var/lib/milvus/rdb_data"}}))
    about = {
        "milvus_yaml": [str(instance.milvus_yaml), str(user)],
        "milvus_env_file": str(instance.milvus_env),
        "path_map": {"/var/lib/milvus/rdb_data": str(instance.rocksmq)},
        "objects": {"type": "local", "path": str(instance.storage)},
        "etcd": {"data_dir": str(instance.embedded_etcd), "binary": str(cache.etcd())},
    }
    return merged(config, {"instance": about})


@pytest.mark.embedded
@pytest.mark.s3
def test_every_setting_works_and_every_setting_is_tried(
    fresh: Callable[..., Lab], scratch: Path, binary: Path
) -> None:
    certificates = tls.make(Path(tempfile.mkdtemp(dir=scratch)) / "certificates")
    lab = fresh("s3", auth=True, certificates=certificates)
    lab.instance.start()
    fill(lab.instance)
    config = explicit(lab, certificates)
    tried = set(said(config))
    eyrie = run(binary, lab.instance.directory, "explicit", config)
    eyrie.expect(0, "init")
    eyrie.expect(0, "check")
    backup = eyrie.json("backup")
    assert (backup["mode"], backup["collections"], backup["weakened"]) == ("quiesced", 1, [])
    for part in ({"instance": {"objects": {"tls": {"cert_file": "/c", "key_file": "/k"}}}},):
        refused = run(binary, lab.instance.directory, "refused", merged(config, part)).expect(2, "check")
        assert "instance.objects" in refused.err and "cert_file" in refused.err, str(refused)

    # The same with an etcd that asks for a password: Milvus is stopped, and its queue is captured too.
    lab.instance.milvus.stop()
    lab.instance.etcd.ask_for_password("root", secret_of_etcd := "etcd-root-secret")
    refused = eyrie.expect(20, "backup", "--mode", "cold")
    assert "etcd" in refused.err, str(refused)
    password = {"username": "root", "password_file": str(secret(lab.instance.directory / "etcd.password", secret_of_etcd))}
    config = merged(config, {"instance": {"etcd": password}})
    tried |= set(said(config))
    eyrie = run(binary, lab.instance.directory, "explicit", config)
    assert eyrie.json("backup", "--mode", "cold")["mode"] == "cold"
    eyrie.expect(0, "verify", "--level", "bytes")
    in_force(eyrie)
    policy = eyrie.json("forget", "--dry-run")["policy"]
    assert (policy["keep"]["last"], policy["keep"]["daily"], policy["time_zone"]) == ("1", "all", "Europe/Berlin")
    # All secrets that there are were given to eyrie here.
    copy = downloaded(lab, "explicit", lab.instance.directory / "repository")
    assert secrets.refuse_opened(Repository(copy, lab_eyrie.PASSPHRASE)) > 20

    inside = fresh("embedded", auth=True)
    inside.instance.start()
    fill(inside.instance)
    config = discovered(inside)
    tried |= set(said(config))
    eyrie = run(binary, inside.instance.directory, "discovered", config)
    eyrie.expect(0, "init")
    assert eyrie.json("backup", "--mode", "hot")["collections"] == 1
    inside.instance.milvus.stop()
    backup = eyrie.json("backup", "--mode", "cold")
    assert (backup["mode"], backup["collections"]) == ("cold", 1)
    eyrie.expect(0, "restore", "latest", "--replace", "--dry-run")
    in_force(eyrie)

    assert set(settings(SCHEMA)) - tried == REFUSED
    assert tried <= set(settings(SCHEMA)), "a setting was tried that the schema does not have"
