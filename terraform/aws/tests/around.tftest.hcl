# Network, endpoints, bucket, package, token and budget.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name = "lab"
}

run "network" {
  module {
    source = "./modules/network"
  }
  variables {
    cidr     = "10.64.0.0/16"
    zones    = 3
    internet = "nat"
  }

  assert {
    condition     = [for subnet in aws_subnet.nodes : subnet.cidr_block] == ["10.64.0.0/19", "10.64.32.0/19", "10.64.64.0/19"]
    error_message = "a block for each zone"
  }
  assert {
    condition     = alltrue([for subnet in concat(values(aws_subnet.nodes), values(aws_subnet.nat)) : !subnet.map_public_ip_on_launch])
    error_message = "no subnet gives public addresses"
  }
  assert {
    condition     = length(aws_default_security_group.closed.ingress) == 0 && length(aws_default_security_group.closed.egress) == 0
    error_message = "the VPC's default group admits nobody"
  }
  assert {
    condition     = aws_route.nodes_to_nat["one"].nat_gateway_id == aws_nat_gateway.out["one"].id && aws_route.nodes_to_nat["one"].gateway_id == null
    error_message = "the nodes' way out is the NAT gateway"
  }
  assert {
    condition     = aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway" && aws_vpc_endpoint.s3.service_name == "com.amazonaws.eu-central-1.s3"
    error_message = "S3 does not pass the NAT gateway"
  }
}

run "network_without_a_way_out" {
  command = plan

  module {
    source = "./modules/network"
  }
  variables {
    cidr     = "10.64.0.0/20"
    zones    = 6
    internet = "none"
  }

  assert {
    condition     = length(aws_nat_gateway.out) + length(aws_internet_gateway.out) + length(aws_eip.nat) + length(aws_route.nodes_to_nat) == 0
    error_message = "nothing leads out"
  }
  assert {
    condition     = length(aws_subnet.nodes) == 3
    error_message = "no more zones than the region has"
  }
}

run "endpoints" {
  module {
    source = "./modules/endpoints"
  }
  variables {
    vpc_id         = "vpc-1"
    subnet_ids     = ["subnet-1"]
    nodes_group_id = "sg-nodes"
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.https_from_nodes.referenced_security_group_id == "sg-nodes" && aws_vpc_security_group_ingress_rule.https_from_nodes.cidr_ipv4 == null
    error_message = "the endpoints admit the nodes alone"
  }
  assert {
    condition     = toset(keys(aws_vpc_endpoint.service)) == toset(["autoscaling", "ssm", "ssmmessages"])
    error_message = "what the nodes need, and no more, since each costs"
  }
}

run "bucket" {
  module {
    source = "./modules/bucket"
  }

  assert {
    condition     = aws_s3_bucket.this.bucket_prefix == "tuneyard-lab-" && !coalesce(aws_s3_bucket.this.force_destroy, false)
    error_message = "a name of its own, and never removed while something is in it"
  }
  assert {
    condition     = alltrue([for blocked in ["block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"] : aws_s3_bucket_public_access_block.this[blocked]])
    error_message = "closed to the world in all four ways"
  }
  assert {
    condition     = aws_s3_bucket_versioning.this.versioning_configuration[0].status == "Enabled"
    error_message = "versioned"
  }
  assert {
    condition     = tolist(aws_s3_bucket_server_side_encryption_configuration.this.rule)[0].apply_server_side_encryption_by_default[0].sse_algorithm == "AES256"
    error_message = "encrypted"
  }
  assert {
    condition     = jsondecode(aws_s3_bucket_policy.tls_only.policy).Statement[0].Effect == "Deny" && jsondecode(aws_s3_bucket_policy.tls_only.policy).Statement[0].Condition == { Bool = { "aws:SecureTransport" = "false" } }
    error_message = "over TLS only"
  }
  assert {
    condition     = anytrue([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : try(rule.abort_incomplete_multipart_upload[0].days_after_initiation, 0) == 2])
    error_message = "unfinished uploads go"
  }
  assert {
    condition     = anytrue([for rule in aws_s3_bucket_lifecycle_configuration.this.rule : try(rule.noncurrent_version_expiration[0].noncurrent_days, 0) == 14])
    error_message = "old versions go"
  }
}

run "bucket_with_a_key" {
  command = plan

  module {
    source = "./modules/bucket"
  }
  variables {
    kms_key = "arn:aws:kms:eu-central-1:111122223333:key/1"
  }

  assert {
    condition     = tolist(aws_s3_bucket_server_side_encryption_configuration.this.rule)[0].apply_server_side_encryption_by_default[0].kms_master_key_id == "arn:aws:kms:eu-central-1:111122223333:key/1"
    error_message = "encrypted with the key that was given"
  }
}

run "package" {
  module {
    source = "./modules/package"
  }
  variables {
    bucket      = "bucket"
    package     = "tests/files/tuneyard-0.1.0-py3-none-any.whl"
    constraints = "tests/files/constraints.txt"
  }

  assert {
    condition     = can(regex("^tuneyard/packages/[0-9a-f]{16}/tuneyard-0.1.0-py3-none-any.whl$", output.files.package.key)) && dirname(output.files.package.key) == dirname(output.files.constraints.key)
    error_message = "both lie under one digest, and the wheel keeps its name"
  }
  assert {
    condition     = output.files.package.sha256 == filesha256("tests/files/tuneyard-0.1.0-py3-none-any.whl")
    error_message = "the nodes know the wheel's digest"
  }
}

run "no_package_is_refused" {
  command = plan

  module {
    source = "./modules/package"
  }
  variables {
    bucket  = "bucket"
    package = null
  }
  expect_failures = [var.package]
}

run "budget" {
  module {
    source = "./modules/budget"
  }
  variables {
    usd_per_month = 500
    emails        = ["me@example.org"]
  }

  assert {
    condition     = one(one(aws_budgets_budget.month.cost_filter).values) == "user:tuneyard-cluster$lab"
    error_message = "it counts what carries the cluster's tag"
  }
  assert {
    condition     = length(aws_budgets_budget.month.notification) == 3
    error_message = "at 80 %, at 100 %, and when it is forecast"
  }
}

run "token" {
  module {
    source = "./modules/token"
  }

  assert {
    condition     = aws_ssm_parameter.token.type == "SecureString" && aws_ssm_parameter.token.value_wo == null
    error_message = "encrypted, and not in the state"
  }
  assert {
    condition     = aws_ssm_parameter.token.name == "/tuneyard/lab/token"
    error_message = "under the cluster's own path"
  }
}
