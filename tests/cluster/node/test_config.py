"""node.json: what is written is what is read, and what is wrong in it is told."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.cluster.node_files import write_config
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig, read_config

WORKER = NodeConfig(cluster="lab", role="worker", name="w1", head="10.0.0.1", kind="onprem", num_gpus=2)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_config(tmp_path, WORKER)
    assert read_config(tmp_path) == WORKER


def test_a_machine_that_is_no_node(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="is no node of that cluster"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"cluster": "lab"}', '{"cluster": "lab", "colour": "red"}'])
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "node.json").write_text(text)
    with pytest.raises(ClusterError, match="is not a node's configuration"):
        read_config(tmp_path)


def test_a_worker_needs_a_head() -> None:
    with pytest.raises(ValidationError, match="the head's address"):
        NodeConfig(cluster="lab", role="worker", kind="onprem")


def test_the_dashboard_is_not_on_a_port_of_rays_agents() -> None:
    with pytest.raises(ValidationError, match="the 102 after it"):
        NodeConfig(cluster="lab", role="head", kind="onprem", gcs_port=8260)


@pytest.mark.parametrize("name", ["Lab", "9lab", "l" * 25, "la_b", ""])
def test_names_that_no_cluster_has(name: str) -> None:
    with pytest.raises(ValidationError, match="cluster"):
        NodeConfig(cluster=name, role="head", kind="onprem")
