"""What is particular to S3: its client, its options, its refusals. Faults on the way are in test_s3_faults.py."""

import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from tests.s3_proxy import S3Proxy
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.trainers.config.keeping import CheckpointConfig
from tuneyard.trainers.errors import ConfigError, StoreError
from tuneyard.trainers.stores.s3_faults import Place, explain
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import open_store


@pytest.mark.s3
def test_more_keys_than_one_page_of_a_listing(s3_server: SeaweedServer) -> None:
    store = open_store(f"s3://tests/{uuid4().hex}", S3Options(endpoint_url=s3_server.endpoint_url))
    names = [f"k/{number:04d}" for number in range(1001)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert store.keys("k/") == names


@pytest.mark.s3
def test_a_missing_bucket_says_how_to_make_it(s3_server: SeaweedServer) -> None:
    store = open_store("s3://nobody-made-me/x", S3Options(endpoint_url=s3_server.endpoint_url))
    with pytest.raises(StoreError) as caught:
        store.check()
    assert f"aws s3 mb s3://nobody-made-me --endpoint-url {s3_server.endpoint_url}" in str(caught.value)


@pytest.mark.s3
@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named_and_not_shown(
    s3_server: SeaweedServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "hunter2-hunter2")
    with pytest.raises(StoreError, match=r"credentials are wrong.*AWS_SECRET_ACCESS_KEY") as caught:
        open_store("s3://tests/x", S3Options(endpoint_url=s3_server.endpoint_url)).check()
    assert "hunter2" not in str(caught.value)
    assert s3_server.secret_key not in str(caught.value)


def test_no_credentials_says_where_they_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match=r"no complete credentials.*AWS_PROFILE"):
        open_store("s3://tests/x", S3Options(endpoint_url="http://127.0.0.1:1")).check()


def test_an_unknown_profile_is_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(StoreError, match="nobody"):
        open_store("s3://tests/x")


def test_a_dead_endpoint_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: every connection is refused
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(StoreError, match=rf"{endpoint}.*cannot be reached.*checkpoint\.endpoint_url"):
            open_store("s3://tests/x", S3Options(endpoint_url=endpoint)).check()


# Options


def test_every_option_of_the_experiment_reaches_the_store() -> None:
    config = CheckpointConfig(
        store="s3://bucket", endpoint_url="https://h", region="r", profile="p", kms_key="k", ca_bundle="~/ca.pem",
        deadline_s=7.5,
    )  # fmt: skip
    assert config.s3_options == S3Options("https://h", "r", "p", "k", str(Path("~/ca.pem").expanduser()), 7.5)


@pytest.mark.s3
def test_the_region_is_what_requests_are_signed_for(proxy: S3Proxy) -> None:
    open_store("s3://tests/x", S3Options(endpoint_url=proxy.endpoint_url, region="eu-north-1")).exists("k")
    assert "/eu-north-1/s3/" in proxy.requests[0].headers["Authorization"]


@pytest.mark.s3
@pytest.mark.parametrize("size", [1, 20_000_000], ids=["whole", "in-parts"])
def test_the_kms_key_goes_with_every_upload(proxy: S3Proxy, size: int) -> None:
    options = S3Options(endpoint_url=proxy.endpoint_url, kms_key="alias/team", deadline_s=0.2)
    # The test server has no KMS, and says so in its way.
    proxy.fail("status", status=400, code="KMS.NotFoundException")
    with pytest.raises(StoreError, match=r"the KMS key cannot be used .*checkpoint\.kms_key"):
        open_store("s3://tests/x", options).put("k", bytes(size))
    (request,) = proxy.requests
    assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
    assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/team"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PEM file with a key, and a certificate for 127.0.0.1 that is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tests -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(
        [*command.split(), "-keyout", "key.pem", "-out", "ca.pem"], cwd=folder, check=True, capture_output=True
    )
    path = folder / "both.pem"
    path.write_text((folder / "key.pem").read_text() + (folder / "ca.pem").read_text())
    return str(path)


@pytest.mark.s3
def test_an_authority_of_ones_own_is_trusted(s3_server: SeaweedServer, certificate: str) -> None:
    with S3Proxy(s3_server.endpoint_url, tls=certificate) as proxy:
        options = S3Options(endpoint_url=proxy.endpoint_url, ca_bundle=certificate)
        store = open_store(f"s3://tests/{uuid4().hex}", options)
        store.put("k", bytes(100_000))
        assert store.get("k") == bytes(100_000)


@pytest.mark.s3
def test_an_unknown_authority_is_told_at_once(s3_server: SeaweedServer, certificate: str) -> None:
    with S3Proxy(s3_server.endpoint_url, tls=certificate) as proxy:
        store = open_store("s3://tests/x", S3Options(endpoint_url=proxy.endpoint_url))
        with pytest.raises(StoreError, match=r"certificate is not trusted .*checkpoint\.ca_bundle"):
            store.put("k", b"1")


def test_a_file_of_authorities_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"checkpoint\.ca_bundle: '/nowhere/ca\.pem' is no file"):
        open_store("s3://tests/x", S3Options(ca_bundle="/nowhere/ca.pem"))


@pytest.mark.parametrize(
    ("told", "headers"),
    [({"Region": "eu-west-1"}, {}), ({}, {"x-amz-bucket-region": "eu-west-1"})],
    ids=["in-the-text", "in-a-header"],
)
def test_a_redirect_tells_the_right_region(told: dict[str, str], headers: dict[str, str]) -> None:
    response: Any = {
        "Error": {"Code": "PermanentRedirect", "Message": "elsewhere", **told},
        "ResponseMetadata": {"HTTPStatusCode": 301, "HTTPHeaders": headers},
    }
    error = ClientError(response, "PutObject")
    text = str(explain(error, Place("s3://b/x", "b", S3Options()), "write", "k"))
    assert text.endswith("another region, eu-west-1 (PermanentRedirect). Set checkpoint.region: eu-west-1.")
