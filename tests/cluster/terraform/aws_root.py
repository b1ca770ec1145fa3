"""A copy of the root module `terraform/aws` to work in: Terraform leaves nothing in the tree."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[3] / "terraform/aws"
WHEEL = SOURCE / "tests/files/tuneyard-0.1.0-py3-none-any.whl"
CONSTRAINTS = SOURCE / "tests/files/constraints.txt"
FOR_MOTO = {
    "moto_override.tf": """
provider "aws" {
  s3_use_path_style       = true
  skip_metadata_api_check = true
  skip_region_validation  = true
}
""",
    # Moto knows no conditions in a policy, and would deny everything.
    "modules/bucket/moto_override.tf": """
resource "aws_s3_bucket_policy" "tls_only" {
  policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Deny", Principal = "*", Action = "s3:PutBucketAcl", Resource = [aws_s3_bucket.this.arn] }]
  })
}
""",
    # Moto forgets the description of a rule between groups.
    "modules/access/moto_override.tf": """
resource "aws_vpc_security_group_ingress_rule" "each_other" {
  lifecycle {
    ignore_changes = [description]
  }
}

resource "aws_vpc_security_group_egress_rule" "each_other" {
  lifecycle {
    ignore_changes = [description]
  }
}
""",
    "modules/endpoints/moto_override.tf": """
resource "aws_vpc_security_group_ingress_rule" "https_from_nodes" {
  lifecycle {
    ignore_changes = [description]
  }
}
""",
    # Moto takes the template's own tags for tags of what it makes, and gives every hook a queue and a role.
    "modules/workers/moto_override.tf": """
resource "aws_launch_template" "worker" {
  lifecycle {
    ignore_changes = [tag_specifications]
  }
}

resource "aws_autoscaling_lifecycle_hook" "leave" {
  lifecycle {
    ignore_changes = [notification_target_arn, role_arn]
  }
}
""",
}
"""What differs on moto, by file: all that a second plan would find to change there, and must not find on AWS."""
TIMEOUT_S = 600.0


@dataclass
class AwsRoot:
    """A folder with the module, initialized; variables are those of the last `write`."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path, environment: Mapping[str, str] | None = None) -> "AwsRoot":
        """Copy the module; with an environment (moto's) it goes to that server."""
        shutil.copytree(SOURCE, folder, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"), dirs_exist_ok=True)
        if environment:
            for name, text in FOR_MOTO.items():
                (folder / name).write_text(text)
        root = cls(folder, dict(environment or {}))
        root.run("init", "-input=false")
        return root

    def write(self, variables: Mapping[str, Any]) -> None:
        """These are the variables from now on."""
        (self.folder / "terraform.tfvars.json").write_text(json.dumps(variables))

    def run(self, *words: str, allowed: Sequence[int] = (0,)) -> str:
        """Run Terraform, and return what it printed; where it may fail, with its errors."""
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=self.env, capture_output=True, text=True, timeout=TIMEOUT_S,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode in allowed, f"terraform {' '.join(words)}: {done.stdout}\n{done.stderr}"
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def command(self, *words: str) -> list[str]:
        """Terraform's command line."""
        return ["terraform", words[0], "-no-color", *words[1:]]

    @property
    def env(self) -> dict[str, str]:
        """The environment that it runs in."""
        return {**os.environ, "CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", **self.environment}

    def apply(self) -> None:
        """Bring it up."""
        self.run("apply", "-auto-approve", "-input=false", "-lock-timeout=60s")

    def destroy(self) -> None:
        """Take it down."""
        self.run("destroy", "-auto-approve", "-input=false", "-lock-timeout=60s")

    def output(self, name: str) -> Any:
        """The value of an output."""
        return json.loads(self.run("output", "-json", name))

    @property
    def state(self) -> str:
        """The state, as text."""
        return (self.folder / "terraform.tfstate").read_text()

    def changes(self) -> dict[str, set[str]]:
        """What a plan would do now: for each address that is not left alone, the attributes that change."""
        self.run("plan", "-input=false", "-out=again.plan")
        plan = json.loads(self.run("show", "-json", "again.plan"))
        found = {}
        for one in plan.get("resource_changes", []):
            if one["mode"] == "managed" and one["change"]["actions"] != ["no-op"]:
                before, after = one["change"]["before"] or {}, one["change"]["after"] or {}
                unknown = one["change"].get("after_unknown", {})
                keys = {*before, *after, *unknown}
                found[one["address"]] = {
                    key for key in keys if before.get(key) != after.get(key) or unknown.get(key) is True
                }
        return found
