"""Milvus and etcd that speak TLS, and only with those who have a certificate, are captured and restored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import STILL, Lab
from lab import oracle, tls
from lab.tls import Certificates
from pymilvus import Collection, CollectionSchema, DataType, FieldSchema
from test_bad_input import lost_nothing, variant


@pytest.fixture(scope="module")
def certificates(scratch: Path) -> Certificates:
    return tls.make(scratch / "certificates")


@pytest.fixture(scope="module")
def secured(certificates: Certificates, fresh: Callable[..., Lab]) -> Lab:
    """A running instance with a collection of one row that is flushed and one that is not."""
    lab = fresh("local", auth=True, certificates=certificates)
    lab.instance.start()
    fields = [FieldSchema("id", DataType.INT64, is_primary=True), FieldSchema("v", DataType.FLOAT_VECTOR, dim=4)]
    with lab.instance.client() as client:
        collection = Collection("few", CollectionSchema(fields), using=client.using())
        collection.insert([{"id": 1, "v": [1.0, 2.0, 3.0, 4.0]}])
        collection.flush()
        collection.insert([{"id": 2, "v": [4.0, 3.0, 2.0, 1.0]}])
        collection.create_index("v", {"index_type": "FLAT", "metric_type": "L2", "params": {}})
        collection.load()
    return lab


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
