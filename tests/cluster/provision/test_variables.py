import re
from pathlib import Path

import pytest

from tests.cluster.provision.small_module import write_module
from tuneyard.cluster.errors import ClusterError
from tuneyard.cluster.provision.module_tree import MODULES, copy_module
from tuneyard.cluster.provision.variables import Variable, changed, check_names, declared, read_values


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, Variable]:
    return declared(write_module(tmp_path / "module"))


def test_variables_are_read_as_they_are_declared(variables: dict[str, Variable]) -> None:
    assert list(variables) == ["name", "workers", "ssh", "python", "package", "constraints", "token_file", "pause_s"]
    assert variables["name"].default is None
    assert variables["workers"] == Variable("workers", "number", "How many workers.\n  More is faster.", "1")
    assert variables["ssh"] == Variable("ssh", "object", 'How hosts are reached, with a "key_file".', "{…}")


@pytest.mark.parametrize("kind", ["aws", "onprem"])
def test_every_variable_of_our_modules_has_a_type_and_says_what_it_is(kind: str) -> None:
    found = declared(MODULES / kind)
    text = (MODULES / kind / "variables.tf").read_text()
    assert len(found) == sum(line.startswith("variable ") for line in text.splitlines())
    assert [name for name, one in found.items() if not one.description] == []
    assert len(re.findall(r"^  type +=", text, re.MULTILINE)) == len(found)
    assert {"name", "package", "constraints"} <= set(found)


def test_words_change_values_and_null_takes_them_away(variables: dict[str, Variable]) -> None:
    values = {"workers": 1, "python": "/usr/bin/python3", "ssh": {"user": "root", "key_file": "/k"}}
    words = ["workers=8", "python=null", "ssh.user=ops", "ssh.key_file=null"]
    assert changed(values, words, variables) == {"workers": 8, "ssh": {"user": "ops"}}
    assert values["ssh"] == {"user": "root", "key_file": "/k"}, "what was given is left alone"


def test_text_stays_as_it_was_typed(variables: dict[str, Variable]) -> None:
    assert changed({}, ["name=1.10", "pause_s=1.10"], variables) == {"name": "1.10", "pause_s": 1.1}


def test_mistakes_are_told(variables: dict[str, Variable], tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"'worker' is not known. Did you mean 'workers'\?"):
        check_names({"worker": 1}, variables)
    with pytest.raises(ClusterError, match=r"'workers\.gpu=1': workers is 3 and not a map"):
        changed({"workers": 3}, ["workers.gpu=1"], variables)
    with pytest.raises(ClusterError, match="neither a file nor KEY=VALUE"):
        changed({}, ["workers"], variables)
    with pytest.raises(ClusterError, match="cannot be read"):
        read_values(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(ClusterError, match="has no keys"):
        read_values(tmp_path / "list.yaml")


def test_a_copy_of_a_module_keeps_the_state_and_nothing_old(tmp_path: Path) -> None:
    into = tmp_path / "root"
    (into / "modules" / "gone").mkdir(parents=True)
    (into / ".terraform").mkdir()
    kept = ("terraform.tfstate", "terraform.tfstate.backup", "backend.tf", "mine_override.tf", ".terraform.lock.hcl")
    for name in (*kept, "old.tf"):
        (into / name).write_text(name)
    copy_module("onprem", into)
    assert not (into / "old.tf").exists()
    assert not (into / "modules" / "gone").exists()
    assert {name: (into / name).read_text() for name in kept} == {name: name for name in kept}
    assert (into / "variables.tf").read_text() == (MODULES / "onprem/variables.tf").read_text()
    assert list(into.rglob("*.tftest.hcl")) == []


def test_an_installation_without_modules_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneyard.cluster.provision.module_tree.MODULES", tmp_path)
    with pytest.raises(ClusterError, match="without its Terraform modules"):
        copy_module("aws", tmp_path)
