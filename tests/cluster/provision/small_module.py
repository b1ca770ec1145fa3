"""A small root module in place of ours: real Terraform, with nothing in it but the inventory that we read."""

from pathlib import Path

import pytest

from tuneyard.cluster.provision import module_tree

MAIN = """
terraform {
  required_version = ">= 1.11"
}

resource "terraform_data" "head" {
  input = var.name
}

resource "terraform_data" "worker" {
  count = var.workers
  input = "${var.name}-${count.index}"

  provisioner "local-exec" {
    command = "echo joined && sleep ${var.pause_s} && echo $$ >>${path.root}/done"
  }
}

output "inventory" {
  value = {
    format  = 1
    name    = var.name
    kind    = "onprem"
    version = "0.1.0"
    head    = { name = "head", address = "10.0.0.1" }
    workers = [for index in range(var.workers) : { name = "w${index}", address = "10.0.0.${10 + index}" }]
    token   = { file = var.token_file }
    python  = coalesce(var.python, "/opt/tuneyard/${var.name}/env/bin/python")
    folder  = "/opt/tuneyard/${var.name}"
  }
}
"""
VARIABLES = """
variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "workers" {
  description = <<-EOT
    How many workers.
      More is faster.
  EOT
  type        = number
  default     = 1
}

variable "ssh" {
  description = "How hosts are reached, with a \\"key_file\\"."
  type = object({
    user     = optional(string)
    key_file = optional(string)
  })
  default = {
    user = "root"
  }
}

variable "python" {
  description = "A Python that has tuneyard."
  type        = string
  default     = null
}

variable "package" {
  description = "A wheel."
  type        = string
  default     = null
}

variable "constraints" {
  description = "Pinned versions."
  type        = string
  default     = null
}

variable "token_file" {
  description = "Ray's token."
  type        = string
}

variable "pause_s" {
  description = "How long a worker takes."
  type        = number
  default     = 0
}
"""


def write_module(folder: Path) -> Path:
    """The module in this folder, which is made."""
    folder.mkdir(parents=True)
    (folder / "main.tf").write_text(MAIN)
    (folder / "variables.tf").write_text(VARIABLES)
    return folder


@pytest.fixture
def small_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small module is what `tuneyard up --on onprem` applies, for a user whose home is `tmp_path / "home"`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(module_tree, "MODULES", tmp_path / "modules")
    (tmp_path / "home").mkdir()
    return write_module(tmp_path / "modules" / "onprem")
