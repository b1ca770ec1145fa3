import json
import os
from pathlib import Path

import pytest

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory
from tuneyard.cluster.private_files import write_private
from tuneyard.cluster.provision.clusters import clusters_folder, find_cluster, list_clusters, make_cluster

INVENTORY = {
    "name": "lab", "kind": "onprem", "version": "0.1.0", "head": {"name": "head", "address": "10.0.0.1"},
    "token": {"file": "/none"}, "python": "/usr/bin/python3", "folder": "/opt/tuneyard/lab", "format": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_folders_are_their_owners_alone() -> None:
    cluster = make_cluster("lab", "onprem")
    for folder in (clusters_folder(), cluster.folder, cluster.root):
        assert folder.stat().st_mode & 0o777 == 0o700
    write_private(cluster.token_file, "secret")
    assert cluster.token_file.stat().st_mode & 0o777 == 0o600
    assert (cluster.name, cluster.kind) == ("lab", "onprem")


def test_the_only_cluster_needs_no_name_and_several_do() -> None:
    with pytest.raises(ClusterError, match=r"There is no cluster in .*tuneyard up"):
        find_cluster(None)
    lab = make_cluster("lab", "onprem")
    assert find_cluster(None) == lab
    make_cluster("cloud", "aws")
    assert [cluster.name for cluster in list_clusters()] == ["cloud", "lab"]
    with pytest.raises(ClusterError, match=r"--cluster cloud\|lab"):
        find_cluster(None)
    assert find_cluster("lab") == lab


def test_a_mistyped_name_gets_the_nearest() -> None:
    make_cluster("lab", "onprem")
    with pytest.raises(ClusterError, match=r"'labb' is not known. Did you mean 'lab'\? Allowed: lab"):
        find_cluster("labb")


@pytest.mark.parametrize("name", ["Lab", "1lab", "lab-", "a" * 25, "la b", "../lab", ""])
def test_a_name_that_terraform_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ClusterError, match="a letter first"):
        make_cluster(name, "aws")


def test_a_name_is_of_one_kind() -> None:
    make_cluster("lab", "onprem")
    with pytest.raises(ClusterError, match="is there already, and is of kind onprem, not aws"):
        make_cluster("lab", "aws")


def test_a_folder_is_told_by_its_slash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClusterError, match=r"plain is no Terraform folder: it has no \.tf file"):
        find_cluster("./plain")
    (folder / "main.tf").touch()
    found = find_cluster("./plain")
    assert (found.name, found.root, found.ours, found.kind) == ("plain", folder, False, None)
    lab = make_cluster("lab", "aws")
    (lab.root / "main.tf").touch()
    assert find_cluster(str(lab.root)) == lab


def test_the_kept_inventory_counts_until_the_state_is_newer(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make_cluster("lab", "onprem")
    write_private(cluster.inventory_file, json.dumps(INVENTORY))
    state = cluster.root / "terraform.tfstate"
    state.touch()
    os.utime(state, (1, 1))
    assert cluster.inventory().head.address == "10.0.0.1"

    newer = INVENTORY | {"head": {"name": "head", "address": "10.0.0.2"}}
    monkeypatch.setattr("tuneyard.cluster.provision.clusters.Terraform.output", lambda self, name: newer)
    os.utime(state)
    assert cluster.inventory().head.address == "10.0.0.2"
    assert Inventory.model_validate_json(cluster.inventory_file.read_text()).head.address == "10.0.0.2"


def test_a_cluster_that_is_not_up_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make_cluster("lab", "onprem")
    monkeypatch.setattr("tuneyard.cluster.provision.clusters.Terraform.output", lambda self, name: None)
    with pytest.raises(ClusterError, match=r"Cluster lab is not up.*tuneyard up --cluster lab"):
        cluster.inventory()
