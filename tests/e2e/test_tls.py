"""Milvus, etcd and MinIO that speak TLS, and some only with those who have a certificate, are captured and restored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import urllib3
from conftest import STILL, Lab
from lab import eyrie as lab_eyrie
from lab import oracle, ports, tls, tunnel
from lab.eyrie import Eyrie, secret
from lab.servers import Minio
from lab.tls import Certificates
from minio import Minio as S3Client
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema
from test_bad_input import lost_nothing, variant


@pytest.fixture(scope="module")
def certificates(scratch: Path) -> Certificates:
    # A worker may come back to this module after another one, and makes them again.
    return tls.make(Path(tempfile.mkdtemp(dir=scratch)) / "certificates")


@pytest.fixture(scope="module")
def secured(certificates: Certificates, fresh_shared: Callable[..., Lab]) -> Lab:
    """A running instance with a collection of one row that is flushed and one that is not."""
    lab = fresh_shared("local", auth=True, certificates=certificates)
    lab.instance.start()
    fill(lab)
    return lab


def fill(lab: Lab) -> None:
    fields = [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("v", DataType.FLOAT_VECTOR, dim=4)]
    with lab.instance.client() as client:
        collection = Collection("few", CollectionSchema(fields), using=client.using())
        collection.insert([{"id": 1, "v": [1.0, 2.0, 3.0, 4.0]}])
        collection.flush()
        collection.insert([{"id": 2, "v": [4.0, 3.0, 2.0, 1.0]}])
        collection.create_index("v", {"index_type": "FLAT", "metric_type": "L2", "params": {}})
        collection.load()


def shown(certificates: Certificates) -> dict[str, Any]:
    """milvus.yaml has the certificates of Milvus's server; who calls it has one of his own."""
    return {"milvus": {"tls": {"cert_file": str(certificates.certificate), "key_file": str(certificates.key)}}}


def test_it_is_captured_and_restored_where_only_the_server_has_a_certificate(
    secured: Lab, certificates: Certificates, fresh: Callable[..., Lab], binary: Path
) -> None:
    eyrie = secured.eyrie(binary, **shown(certificates))
    eyrie.expect(0, "init")
    eyrie.expect(0, "check")
    assert eyrie.json("backup")["weakened"] == []
    settings = {**STILL, "common.security.tlsMode": 1}
    target = fresh("local", auth=True, certificates=certificates, settings=settings)
    target.instance.start_backing()
    of_target = target.eyrie(binary)
    eyrie.expect(0, "restore", "latest", "--target", str(of_target.config))
    target.instance.start_milvus()
    assert oracle.compare(secured.view(), target.view()) == []
    of_target.expect(0, "init")
    assert of_target.json("backup")["mode"] == "quiesced"
    target.instance.kill()


@pytest.mark.parametrize("server", ["milvus", "etcd"])
def test_a_server_of_another_authority_is_refused_with_20_and_named(
    server: str, secured: Lab, certificates: Certificates, scratch: Path, binary: Path
) -> None:
    eyrie = secured.eyrie(binary, f"other-authority-{server}", **shown(certificates))
    eyrie.expect(0, "init")
    other = tls.make(scratch / f"other-authority-{server}")
    trusting = variant(eyrie, f"other-authority-{server}", instance={server: {"tls": {"ca_file": str(other.authority)}}})
    refused = trusting.expect(20, "backup")
    assert server in refused.err.lower() and "certificate" in refused.err.lower(), str(refused)
    lost_nothing(eyrie, secured)


def test_without_a_certificate_of_ones_own_it_is_refused_with_20(
    secured: Lab, certificates: Certificates, scratch: Path, binary: Path
) -> None:
    eyrie = secured.eyrie(binary, "no-certificate")
    eyrie.expect(0, "init")
    refused = eyrie.expect(20, "backup")
    assert "instance.milvus.tls" in refused.err, str(refused)
    lost_nothing(eyrie, secured)
    other = tls.make(scratch / "strangers-certificate")
    mine = {"cert_file": str(other.certificate), "key_file": str(other.key)}
    refused = variant(eyrie, "strangers-certificate", instance={"milvus": {"tls": mine}}).expect(20, "backup")
    assert "instance.milvus.tls" in refused.err, str(refused)
    lost_nothing(eyrie, secured)


def test_the_management_port_behind_tls_is_reached_by_certificate_and_name(
    secured: Lab, certificates: Certificates, binary: Path
) -> None:
    named = tls.sign(certificates.authority, "management", "DNS:localhost")
    port = tunnel.from_tls(secured.instance.milvus.metrics_port, named)
    mine = shown(certificates)["milvus"]["tls"]
    at = {"management": f"https://127.0.0.1:{port}"}
    eyrie = secured.eyrie(binary, "management", milvus={**at, "tls": {**mine, "server_name": "localhost"}})
    eyrie.expect(0, "init")
    eyrie.expect(0, "check")
    assert eyrie.json("backup")["weakened"] == []
    # Milvus's own certificate is for the address too, that of the tunnel for the name alone.
    nameless = secured.eyrie(binary, "management", milvus={**at, "tls": mine})
    unheld = nameless.expect(0, "backup")
    assert "garbage collection is not held" in unheld.err and "certificate" in unheld.err, str(unheld)
    assert any("garbage collection could not be held" in note["what"] for note in eyrie.json("show", "latest")["notes"])


def test_objects_and_repository_in_a_minio_under_tls_are_captured_and_restored(
    certificates: Certificates, fresh: Callable[..., Lab], binary: Path
) -> None:
    source = fresh("s3", auth=True, certificates=certificates)
    source.instance.start()
    fill(source)
    eyrie = source.eyrie(binary, **shown(certificates))
    eyrie.expect(0, "init")
    eyrie.expect(0, "check")
    assert eyrie.json("backup")["weakened"] == []
    eyrie.expect(0, "verify", "--level", "bytes")
    target = fresh("s3", auth=True, certificates=certificates)
    target.instance.start_backing()
    eyrie.expect(0, "restore", "latest", "--target", str(target.eyrie(binary).config))
    target.instance.start_milvus()
    assert oracle.compare(source.view(), target.view()) == []
    source.instance.kill()
    target.instance.kill()


def test_a_bucket_whose_server_has_another_name_is_trusted_by_it_and_a_client_certificate_is_refused(
    secured: Lab, certificates: Certificates, scratch: Path, binary: Path
) -> None:
    named = tls.sign(certificates.authority, "objects", "DNS:objects.internal")
    minio = Minio(scratch / "minio-of-another-name", ports.take(), ports.take(), named)
    minio.start()
    trusting = urllib3.PoolManager(ca_certs=str(named.authority), assert_hostname="objects.internal")
    S3Client(f"127.0.0.1:{minio.port}", Minio.user, Minio.password, http_client=trusting).make_bucket("named")
    s3 = {
        "endpoint": minio.url,
        "access_key_id": Minio.user,
        "secret_access_key_file": str(secret(scratch / "minio-of-another-name" / "secret", Minio.password)),
    }

    def eyrie(**trust: str) -> Eyrie:
        entry = lab_eyrie.repository(secured.instance, "named")
        entry |= {"url": "s3://named", "s3": {**s3, "tls": {"ca_file": str(named.authority), **trust}}}
        return Eyrie(binary, lab_eyrie.configure(secured.instance, [entry], "eyrie-named.yaml"))

    refused = eyrie().expect(1, "init")
    assert "certificate" in refused.err and "tls.server_name" in refused.err, str(refused)
    eyrie(server_name="objects.internal").expect(0, "init")
    eyrie(server_name="objects.internal").expect(0, "snapshots")
    refused = eyrie(cert_file=str(certificates.certificate), key_file=str(certificates.key)).expect(2, "snapshots")
    assert "repositories" in refused.err and "cert_file" in refused.err, str(refused)
    minio.kill()
