"""The environment of Ray on a node: where it comes from, and what is refused."""

from pathlib import Path

import pytest

from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.node.config import NodeConfig
from tuneyard.cluster.node.environment import connection_environment, ray_environment, read_environment_file
from tuneyard.cluster.node.folder import NodeFolder

HEAD = NodeConfig(cluster="lab", role="head", address="10.0.0.1", kind="onprem")


def private(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def test_lines_comments_exports_and_quotes(tmp_path: Path) -> None:
    path = private(tmp_path / "env", "# keys\n\nA=1\nexport B='two words'\nC=\"x=y\"\nD=\nE=un'quoted\n")
    assert read_environment_file(path) == {"A": "1", "B": "two words", "C": "x=y", "D": "", "E": "un'quoted"}


def test_a_bad_line_is_told_without_its_text(tmp_path: Path) -> None:
    path = private(tmp_path / "env", "A=1\nsecret-value\n")
    with pytest.raises(ClusterError, match="line 2") as caught:
        read_environment_file(path)
    assert "secret-value" not in str(caught.value)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = private(tmp_path / "env", "A=1\n")
    path.chmod(0o640)
    with pytest.raises(ClusterError, match=r"has mode 0640\. Do: chmod 600"):
        read_environment_file(path)


def test_ray_gets_the_path_of_the_token_and_not_the_token(tmp_path: Path) -> None:
    private(tmp_path / "token", "the-token")
    found = ray_environment(HEAD, NodeFolder(tmp_path))
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")
    assert "the-token" not in found.values()


def test_the_users_file_can_not_turn_the_token_off(tmp_path: Path) -> None:
    private(tmp_path / "token", "the-token")
    path = private(tmp_path / "env", "RAY_AUTH_MODE=disabled\nCOMET_API_KEY=key\n")
    found = ray_environment(HEAD.model_copy(update={"environment_file": path}), NodeFolder(tmp_path))
    assert (found["RAY_AUTH_MODE"], found["COMET_API_KEY"]) == ("token", "key")


def test_no_token_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="token cannot be read"):
        connection_environment(HEAD, NodeFolder(tmp_path))


def test_tls_names_the_certificates(tmp_path: Path) -> None:
    private(tmp_path / "token", "the-token")
    private(tmp_path / "tls/node.key", "key")
    found = connection_environment(HEAD.model_copy(update={"tls": True}), NodeFolder(tmp_path))
    assert found["RAY_USE_TLS"] == "1"
    assert found["RAY_TLS_CA_CERT"] == str(tmp_path / "tls/ca.crt")
