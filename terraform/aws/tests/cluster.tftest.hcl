# The whole, as a user applies it with nothing but a wheel.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  package     = "tests/files/tuneyard-0.1.0-py3-none-any.whl"
  constraints = "tests/files/constraints.txt"
}

run "smallest" {
  assert {
    condition     = output.inventory.head.address == "10.64.0.10" && output.inventory.head.instance_id == "i-0123456789abcdef0"
    error_message = "the inventory names the head"
  }
  assert {
    condition     = jsonencode(output.inventory.groups) == jsonencode([{ autoscaling_group = "tuneyard-tuneyard-gpu", count = 1, gpus = 1, machines = ["g6.xlarge", "g5.xlarge"], name = "gpu", on_demand_percent = 100 }])
    error_message = "the inventory has the group"
  }
  assert {
    condition     = output.inventory.token.parameter == "/tuneyard/tuneyard/token"
    error_message = "the inventory says where the token is"
  }
  assert {
    condition     = output.inventory.version == "0.1.0" && output.inventory.python == "/opt/tuneyard/tuneyard/env/bin/python"
    error_message = "the inventory has the package's version, and the environment that is made of it"
  }
  assert {
    condition     = length(module.endpoints) == 0 && length(module.budget) == 0
    error_message = "what is not asked for is not made"
  }
}

run "two_groups" {
  command = plan

  variables {
    groups = {
      small = { machines = ["g6.xlarge"] }
      spot  = { machines = ["g5.xlarge", "g4dn.xlarge"], on_demand_percent = 0 }
    }
    workers = { small = 2, spot = 8 }
  }

  assert {
    condition     = [for group in output.inventory.groups : "${group.name}:${group.count}:${group.on_demand_percent}"] == ["small:2:100", "spot:8:0"]
    error_message = "each group has its own number, and its own share on demand"
  }
}

run "existing_network_and_bucket" {
  command = plan

  variables {
    network = { vpc_id = "vpc-1", subnet_ids = ["subnet-1", "subnet-2"] }
    bucket  = "mine"
  }

  assert {
    condition     = length(module.network) == 0 && length(module.bucket) == 0 && length(module.endpoints) == 0
    error_message = "neither is made where both are given"
  }
  assert {
    condition     = output.inventory.store == "s3://mine/runs"
    error_message = "runs go to the bucket that was given"
  }
}

run "no_way_out" {
  command = plan

  variables {
    internet = "none"
    python   = "/opt/env/bin/python"
    package  = null
  }

  assert {
    condition     = length(module.endpoints) == 1 && length(module.package) == 0
    error_message = "endpoints in place of a NAT gateway, and an image that has all"
  }
}

run "budget" {
  command = plan

  variables {
    budget = { usd_per_month = 500, emails = ["me@example.org"] }
  }

  assert {
    condition     = length(module.budget) == 1
    error_message = "an alarm is made when it is asked for"
  }
}

run "a_number_for_two_groups_is_refused" {
  command = plan

  variables {
    groups  = { a = { machines = ["g6.xlarge"] }, b = { machines = ["g5.xlarge"] } }
    workers = 3
  }
  expect_failures = [var.workers]
}

run "an_unknown_group_is_refused" {
  command = plan

  variables {
    workers = { cpu = 3 }
  }
  expect_failures = [var.workers]
}

run "half_a_worker_is_refused" {
  command = plan

  variables {
    workers = 1.5
  }
  expect_failures = [var.workers]
}

run "no_way_out_and_no_packages_is_refused" {
  command = plan

  variables {
    internet = "none"
  }
  expect_failures = [var.internet]
}

run "a_missing_wheel_is_refused" {
  command = plan

  variables {
    package = "dist/nothing.whl"
  }
  expect_failures = [var.package]
}

run "a_password_in_the_index_is_refused" {
  command = plan

  variables {
    index_url = "https://me:secret@packages.example.org/simple"
  }
  expect_failures = [var.index_url]
}

run "a_secret_for_a_parameter_is_refused" {
  command = plan

  variables {
    parameters = { COMET_API_KEY = "s3cr3t with spaces" }
  }
  expect_failures = [var.parameters]
}

run "a_bad_name_is_refused" {
  command = plan

  variables {
    name = "Lab_1"
  }
  expect_failures = [var.name]
}
