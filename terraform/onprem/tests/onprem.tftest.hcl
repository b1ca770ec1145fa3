# What can be seen from a plan alone: the defaults, what the hosts inherit, and what is refused.

variables {
  name   = "lab"
  python = "/opt/venv/bin/python"
  head   = { host = "10.0.0.1" }
  workers = {
    w1 = { host = "10.0.0.2", user = "ann", port = 2222, num_gpus = 2 }
    w2 = { host = "box.example.org", address = "10.0.0.3" }
  }
  ssh = { key_file = "/keys/id", jump = "ann@gate.example.org:2200", known_hosts = "/keys/known_hosts" }
}

run "inventory" {
  command = plan

  assert {
    condition     = output.inventory.format == 1 && output.inventory.kind == "onprem"
    error_message = "The inventory is not one that tuneyard reads."
  }
  assert {
    condition     = output.inventory.folder == "/opt/tuneyard/lab"
    error_message = "The folder is not the cluster's own."
  }
  assert {
    condition     = output.inventory.head.ssh.user == "root" && output.inventory.head.ssh.port == 22
    error_message = "The head does not take the defaults of ssh."
  }
  assert {
    condition     = [for one in output.inventory.workers : "${one.name} ${one.address} ${one.ssh.user}@${one.ssh.host}:${one.ssh.port}"] == ["w1 10.0.0.2 ann@10.0.0.2:2222", "w2 10.0.0.3 root@box.example.org:22"]
    error_message = "The workers are not as given."
  }
  assert {
    condition     = alltrue([for one in output.inventory.workers : one.ssh.jump == "ann@gate.example.org:2200" && one.ssh.key_file == "/keys/id" && one.ssh.known_hosts == "/keys/known_hosts"])
    error_message = "The workers do not inherit how hosts are reached."
  }
  assert {
    condition     = endswith(output.inventory.token.file, "/lab.token") && output.inventory.token.parameter == null
    error_message = "The token does not lie beside the state."
  }
}

run "name_with_capitals" {
  command = plan
  variables {
    name = "Lab"
  }
  expect_failures = [var.name]
}

run "head_without_an_address" {
  command = plan
  variables {
    head = { host = "head.example.org" }
  }
  expect_failures = [var.head]
}

run "worker_without_an_address" {
  command = plan
  variables {
    workers = { w1 = { host = "box.example.org" } }
  }
  expect_failures = [var.workers]
}

run "worker_called_head" {
  command = plan
  variables {
    workers = { head = { host = "10.0.0.2" } }
  }
  expect_failures = [var.workers]
}

run "one_machine_twice" {
  command = plan
  variables {
    workers = { w1 = { host = "10.0.0.1" } }
  }
  expect_failures = [var.workers]
}

run "neither_python_nor_package" {
  command = plan
  variables {
    python = null
  }
  expect_failures = [var.python]
}

run "package_that_is_not_there" {
  command = plan
  variables {
    python  = null
    package = "/nowhere/tuneyard-0.1.0-py3-none-any.whl"
  }
  expect_failures = [var.package]
}

run "folder_that_is_not_to_be_removed" {
  command = plan
  variables {
    folder = "/opt"
  }
  expect_failures = [var.folder]
}

run "ports_that_collide" {
  command = plan
  variables {
    dashboard_port = 6385
  }
  expect_failures = [var.dashboard_port]
}
