"""A cluster's token: where it may lie, and that no error repeats it."""

from pathlib import Path

import pytest

from tuneyard.cluster import aws
from tuneyard.cluster.access.token import authorization, read_token
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.inventory import Inventory, Node, Token


def inventory(token: Token) -> Inventory:
    return Inventory(
        name="lab", kind="onprem", version="0", region="eu-west-1", head=Node(name="head", address="10.0.0.1"),
        token=token, python="python", folder="/opt",
    )  # fmt: skip


def write(path: Path, text: str, mode: int = 0o600) -> Inventory:
    path.write_text(text)
    path.chmod(mode)
    return inventory(Token(file=path))


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_token_of_ones_own_is_read_without_its_line_end(tmp_path: Path, mode: int) -> None:
    assert read_token(write(tmp_path / "token", "a1b2c3\n", mode)) == "a1b2c3"
    assert authorization("a1b2c3") == {"Authorization": "Bearer a1b2c3"}


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o602])
def test_a_token_that_others_may_read_or_replace_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token"
    with pytest.raises(ClusterError, match=f"its mode {mode:04o} lets others .*chmod 600 {path}") as raised:
        read_token(write(path, "a1b2c3", mode))
    assert "a1b2c3" not in str(raised.value)


def test_a_missing_token_is_told_with_where_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"token of cluster lab cannot be read: .*No such file"):
        read_token(inventory(Token(file=tmp_path / "token")))


@pytest.mark.parametrize("text", ["", "\n", "two words", "two\nlines", "tökén"])
def test_what_is_no_token_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(ClusterError, match="holds no token") as raised:
        read_token(write(tmp_path / "token", text))
    assert not text.strip() or text not in str(raised.value)


def test_a_parameter_is_read_in_the_clusters_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "read_parameter", lambda name, region: f"{name}@{region}")
    assert read_token(inventory(Token(parameter="/tuneyard/lab"))) == "/tuneyard/lab@eu-west-1"


def test_an_inventory_without_a_token_is_told() -> None:
    with pytest.raises(ClusterError, match=r"does not say where its token is. Apply the cluster again"):
        read_token(inventory(Token()))
