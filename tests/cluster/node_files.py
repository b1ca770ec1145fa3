"""A node's files, as an apply writes them."""

from pathlib import Path

from tuneyard.cluster.node.config import CONFIG_FILE, NodeConfig


def write_config(folder: Path, config: NodeConfig) -> None:
    """The node's configuration, into the cluster's folder, which exists."""
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=1) + "\n")
