"""`tuneyard doctor` as a user meets it: this machine, a store in S3, Comet, and the hosts of a cluster."""

import base64
import contextlib
import http.server
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tests.s3_proxy import S3Proxy
from tuneyard.cluster.doctor.findings import Finding, Report, Result, failure, ok, warning
from tuneyard.cluster.inventory import Inventory, Node, Ssh, Token
from tuneyard.cluster.seaweedfs import SeaweedServer
from tuneyard.launch.doctor import store as doctor_store
from tuneyard.launch.doctor.comet import api_key, check_comet, server_of
from tuneyard.launch.doctor.store import StorePlace, check_store, remove_left
from tuneyard.launch.doctor.table import render
from tuneyard.launch.main import app
from tuneyard.trainers.stores.file_store import FileStore
from tuneyard.trainers.stores.s3_options import S3Options
from tuneyard.trainers.stores.store import Bytes, open_store

# S3


def looked(place: StorePlace) -> dict[str, Finding]:
    return {finding.name: finding for finding in check_store(place)}


def results(found: dict[str, Finding]) -> dict[str, str]:
    return {name.removeprefix("S3: "): str(finding.result) for name, finding in found.items()}


@pytest.fixture
def place(s3_server: SeaweedServer) -> StorePlace:
    return StorePlace("s3://tests/doctor", S3Options(endpoint_url=s3_server.endpoint_url))


def keys(place: StorePlace) -> list[str]:
    return open_store(place.uri, place.options).keys("")


@pytest.mark.s3
def test_a_store_in_order(place: StorePlace) -> None:
    assert results(looked(place)) == dict.fromkeys(
        ["public", "clock", "list", "write", "read", "write once", "in parts", "delete"], "ok"
    )
    assert keys(place) == []


@pytest.mark.s3
def test_credentials_that_may_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ReadOnlyServer(tmp_path / "server") as server:
        server.create_bucket("tests")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "reader")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "reader-secret")
        found = looked(StorePlace("s3://tests/doctor", S3Options(endpoint_url=server.endpoint_url)))
    assert results(found) == {"public": "ok", "clock": "ok", "list": "ok", "write": "failure"}
    assert "s3:PutObject" in found["S3: write"].advice
    assert "reader-secret" not in str(found)


class ReadOnlyServer(SeaweedServer):
    """With one identity more, that may list and read."""

    def _write_credentials(self) -> None:
        super()._write_credentials()
        path = self._folder / "s3.json"
        config = json.loads(path.read_text())
        reader = {"accessKey": "reader", "secretKey": "reader-secret"}
        config["identities"].append({"name": "reader", "credentials": [reader], "actions": ["Read", "List"]})
        path.write_text(json.dumps(config))


@pytest.mark.s3
def test_a_node_should_not_delete_and_what_it_leaves_is_removed_from_here(place: StorePlace) -> None:
    endpoint = place.options.endpoint_url
    assert endpoint is not None
    with S3Proxy(endpoint) as proxy:
        proxy.fail("status", method="DELETE", key="probe$", times=2, status=403, code="AccessDenied")
        through = replace(place, options=S3Options(endpoint_url=proxy.endpoint_url))
        here = looked(through)["S3: delete"]
        on_node = looked(replace(through, on_node=True, ours=True))["S3: delete"]
    assert (here.result, on_node.result) == (Result.WARNING, Result.OK)
    left = [*here.data["left"], *on_node.data["left"]]
    assert keys(place) == sorted(left)
    assert remove_left(place, left).result is Result.OK
    assert keys(place) == []


@pytest.mark.s3
def test_a_role_that_may_too_much_is_told(place: StorePlace) -> None:
    found = looked(replace(place, on_node=True, ours=True))
    assert (found["S3: delete"].result, found["S3: beyond the prefix"].result) == (Result.WARNING, Result.WARNING)


@pytest.mark.s3
def test_a_bucket_that_answers_to_anyone(place: StorePlace) -> None:
    endpoint = place.options.endpoint_url
    assert endpoint is not None
    with S3Proxy(endpoint) as proxy:
        proxy.fail("status", key="list-type=2&max-keys=1$", status=200, code="Fine")
        found = looked(replace(place, options=S3Options(endpoint_url=proxy.endpoint_url)))
    assert found["S3: public"].result is Result.FAILURE
    assert "Block Public Access" in found["S3: public"].advice


@pytest.mark.s3
def test_parts_that_cannot_be_aborted_are_told(place: StorePlace) -> None:
    endpoint = place.options.endpoint_url
    assert endpoint is not None
    with S3Proxy(endpoint) as proxy:
        proxy.fail("status", method="DELETE", key="uploadId", times=9, status=403, code="AccessDenied")
        found = looked(replace(place, options=S3Options(endpoint_url=proxy.endpoint_url)))["S3: in parts"]
    assert found.result is Result.WARNING
    assert "s3:AbortMultipartUpload" in found.advice


@pytest.mark.s3
def test_a_wrong_bucket_says_so_and_ends_there(place: StorePlace) -> None:
    found = looked(replace(place, uri="s3://nobody-made-me/x"))
    assert found["S3: list"].result is Result.FAILURE
    assert "there is no bucket 'nobody-made-me'" in found["S3: list"].found
    assert "S3: write" not in found


def test_a_wrong_endpoint_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(doctor_store, "_DEADLINE_S", 0.3)
    found = looked(StorePlace("s3://tests/x", S3Options(endpoint_url="http://127.0.0.1:1")))
    assert results(found) == {"list": "failure"}
    assert "endpoint_url" in found["S3: list"].found


class Forgetful(FileStore):
    """A server that ignores IfNoneMatch."""

    def create(self, key: str, data: Bytes, *, sha256: bytes | None = None) -> bool:
        self.put(key, data, sha256=sha256)
        return True


def test_a_server_that_ignores_conditions_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_store, "open_store", lambda *_: Forgetful(tmp_path))
    found = looked(StorePlace("s3://tests/x", S3Options(endpoint_url="http://127.0.0.1:1")))
    assert results(found) == {
        "list": "ok", "write": "ok", "read": "ok", "write once": "failure", "in parts": "failure", "delete": "ok",
    }  # fmt: skip


def test_a_folder_on_a_node_is_no_common_store(tmp_path: Path) -> None:
    assert looked(StorePlace(f"file://{tmp_path}", S3Options(), on_node=True))["S3"].result is Result.WARNING


# Comet


class Account(http.server.BaseHTTPRequestHandler):
    """Comet, as far as it knows keys."""

    def do_GET(self) -> None:
        known = self.path == "/api/rest/v2/account-details" and self.headers["Authorization"] == "good-key"
        self.send_response(200 if known else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@contextlib.contextmanager
def comet() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Account) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/clientlib/"
        server.shutdown()


@pytest.fixture
def no_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("COMET_API_KEY", "COMET_CONFIG", "COMET_URL_OVERRIDE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize(
    ("key", "result", "told"),
    [("good-key", Result.OK, "knows the key from COMET_API_KEY"), ("bad-key", Result.FAILURE, "refuses the key")],
)
def test_comet_is_asked_about_the_key(monkeypatch: pytest.MonkeyPatch, key: str, result: Result, told: str) -> None:
    monkeypatch.setenv("COMET_API_KEY", key)
    with comet() as address:
        monkeypatch.setenv("COMET_URL_OVERRIDE", address)
        (found,) = check_comet("auto")
    assert found.result is result
    assert told in found.found
    assert key not in str(found)


@pytest.mark.usefixtures("no_key")
def test_a_comet_that_cannot_be_reached_is_not_one_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_API_KEY", "good-key")
    monkeypatch.setenv("COMET_URL_OVERRIDE", "http://127.0.0.1:1/clientlib/")
    (found,) = check_comet("auto")
    assert found.result is Result.WARNING
    assert "cannot be reached: [Errno 111] Connection refused" in found.found
    assert check_comet("online").__next__().result is Result.FAILURE


@pytest.mark.usefixtures("no_key")
@pytest.mark.parametrize(
    ("mode", "result"),
    [("auto", Result.NOT_APPLICABLE), ("off", Result.NOT_APPLICABLE), ("online", Result.FAILURE)],
)
def test_no_key(mode: str, result: Result) -> None:
    (found,) = check_comet(mode)
    assert found.result is result


@pytest.mark.usefixtures("no_key")
def test_a_key_in_comets_own_file(tmp_path: Path) -> None:
    (tmp_path / ".comet.config").write_text("[comet]\napi_key=good%key\n")
    assert api_key()[0] == "good%key"


@pytest.mark.usefixtures("no_key")
def test_a_key_that_names_its_server() -> None:
    told = base64.b64encode(json.dumps({"baseUrl": "https://comet.example.org"}).encode()).decode().rstrip("=")
    assert server_of(f"good-key*{told}") == "https://comet.example.org"
    assert server_of("good-key") == "https://www.comet.com"


# The command


def experiment(folder: Path, store: str) -> str:
    path = folder / "experiment.yaml"
    path.write_text(f"name: x\ndata: {{source: digits}}\ncheckpoint: {{store: {store}}}\n")
    return str(path)


@pytest.mark.usefixtures("no_key")
def test_this_machine_as_json(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["doctor", experiment(tmp_path, "runs"), "--json"])
    (report,) = json.loads(done.stdout)
    found: dict[str, dict[str, Any]] = {finding["name"]: finding for finding in report["findings"]}
    assert {"packages", "NVIDIA driver", "torch on GPUs", "memory", "S3", "Comet"} <= set(found)
    assert found["packages"]["result"] == "ok"
    assert any("store" in name for name in found if name.startswith("disk"))
    failures = [finding for finding in report["findings"] if finding["result"] == "failure"]
    assert done.exit_code == (1 if failures else 0)


def test_a_cluster_that_is_away_is_told_node_by_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    away = Node(name="head", address="127.0.0.1", ssh=Ssh(host="127.0.0.1", port=1))
    inventory = Inventory(
        name="lab", kind="onprem", version="0", head=away, token=Token(file=tmp_path / "token"), python="python",
        folder="/opt/tuneyard/lab",
    )  # fmt: skip
    folder = tmp_path / ".tuneyard/clusters/lab"
    (folder / "onprem").mkdir(parents=True)
    (folder / "inventory.json").write_text(inventory.model_dump_json())
    done = CliRunner().invoke(app, ["doctor", "--cluster", "lab", "--json"])
    assert done.exit_code == 1
    found = {one["machine"]: one["findings"] for one in json.loads(done.stdout)}
    assert list(found) == ["this machine", "head", "between the nodes"]
    assert "cannot be reached over SSH" in found["head"][0]["found"]
    assert found["this machine"][0]["result"] == "failure"  # there is no token


def rendered(reports: list[Report]) -> str:
    out = io.StringIO()
    render(reports, Console(width=80, file=out))
    return out.getvalue()


def test_the_table_is_readable_at_80_columns() -> None:
    reports = [
        Report(machine="head", findings=[ok("packages", "all " * 40), failure("S3: write once", "no", "Do this.")]),
        Report(machine="w1", findings=[warning("bandwidth", "slow", "Look at the cable.")]),
    ]
    text = rendered(reports)
    assert max(map(len, text.splitlines())) <= 80
    assert "→ Do this." in text
    assert text.splitlines()[-1] == "1 failure, 1 warning, 1 ok, 0 not applicable"


def test_of_many_machines_only_what_is_wrong_is_shown() -> None:
    reports = [Report(machine=f"w{number}", findings=[ok("packages", "alike")]) for number in range(5)]
    reports[3].findings.append(failure("S3: write", "refused", "Ask."))
    text = rendered(reports)
    assert "alike" not in text
    assert "refused" in text
    assert "w1 · 1 in order" in text
