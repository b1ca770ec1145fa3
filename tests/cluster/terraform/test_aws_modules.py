"""The Terraform modules for AWS: formatted, valid, and right by their own tests, on mocks of the provider."""

import re
import subprocess

import pytest

from tests.cluster.terraform.aws_root import SOURCE, AwsRoot

pytestmark = pytest.mark.terraform


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> AwsRoot:
    return AwsRoot.make(tmp_path_factory.mktemp("aws"))


def test_the_modules_are_formatted() -> None:
    done = subprocess.run(
        ["terraform", "fmt", "-check", "-recursive", str(SOURCE)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_modules_are_valid(root: AwsRoot) -> None:
    assert "The configuration is valid" in root.run("validate")


def test_the_modules_pass_their_own_tests(root: AwsRoot) -> None:
    said = root.run("test")
    assert re.search(r"Success! (\d+) passed, 0 failed", said), said


@pytest.mark.parametrize("module", [".", *sorted(f"modules/{path.name}" for path in (SOURCE / "modules").iterdir())])
def test_a_module_has_the_standard_files_and_describes_all(module: str) -> None:
    folder = SOURCE / module
    for name in ("main.tf", "variables.tf", "outputs.tf", "versions.tf"):
        assert (folder / name).is_file()
    for path in (folder / "variables.tf", folder / "outputs.tf"):
        blocks = re.findall(r'^(?:variable|output) "(\w+)" \{\n(.*?)^\}', path.read_text(), re.MULTILINE | re.DOTALL)
        lacking = [name for name, body in blocks if "description" not in body]
        assert lacking == []
        untyped = [name for name, body in blocks if path.name == "variables.tf" and "  type " not in body]
        assert untyped == []
