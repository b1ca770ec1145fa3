# Who may talk to whom: one security group that admits itself and nobody else, and one role each for head and workers.

data "aws_partition" "here" {}

data "aws_region" "here" {}

data "aws_caller_identity" "here" {}

locals {
  partition = data.aws_partition.here.partition
  place     = "${data.aws_region.here.name}:${data.aws_caller_identity.here.account_id}"
  bucket    = "arn:${local.partition}:s3:::${var.bucket}"
  tag       = "tuneyard-${var.name}"

  # A parameter's name begins with a slash where it has a path; its ARN has one in either case.
  parameters = [
    for name in concat([var.token_parameter], values(var.parameters)) :
    "arn:${local.partition}:ssm:${local.place}:parameter/${trimprefix(name, "/")}"
  ]

  # s3://bucket/prefix → bucket and prefix; a prefix ends with a slash, so that s3://b/a does not open s3://b/abc.
  read_only = [
    for uri in var.read_only : {
      bucket = split("/", trimprefix(uri, "s3://"))[0]
      prefix = join("", [for part in slice(split("/", trimprefix(uri, "s3://")), 1, length(split("/", trimprefix(uri, "s3://")))) : "${part}/" if part != ""])
    }
  ]
  roles = toset(["head", "worker"])
}

resource "aws_security_group" "nodes" {
  #checkov:skip=CKV2_AWS_5:It is attached, in the modules head and workers, where the check does not look.
  name_prefix = "${local.tag}-nodes-"
  description = "Nodes of the tuneyard cluster ${var.name}: they admit each other and nobody else"
  vpc_id      = var.vpc_id
  tags        = { Name = "${local.tag}-nodes" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "each_other" {
  security_group_id            = aws_security_group.nodes.id
  referenced_security_group_id = aws_security_group.nodes.id
  description                  = "Everything among the nodes"
  ip_protocol                  = "-1"
}

# EFA asks for this rule by the group itself; an address range does not do.
resource "aws_vpc_security_group_egress_rule" "each_other" {
  security_group_id            = aws_security_group.nodes.id
  referenced_security_group_id = aws_security_group.nodes.id
  description                  = "Everything among the nodes"
  ip_protocol                  = "-1"
}

resource "aws_vpc_security_group_egress_rule" "https" {
  security_group_id = aws_security_group.nodes.id
  cidr_ipv4         = "0.0.0.0/0"
  description       = "AWS services, the package index, the tracker"
  ip_protocol       = "tcp"
  from_port         = 443
  to_port           = 443
}

resource "aws_vpc_security_group_egress_rule" "http" {
  security_group_id = aws_security_group.nodes.id
  cidr_ipv4         = "0.0.0.0/0"
  description       = "Ubuntu's package mirrors, whose packages are signed"
  ip_protocol       = "tcp"
  from_port         = 80
  to_port           = 80
}

resource "aws_iam_role" "node" {
  for_each = local.roles

  name_prefix          = "${local.tag}-${substr(each.key, 0, 1)}-"
  description          = "The ${each.key} of the tuneyard cluster ${var.name}"
  permissions_boundary = var.permissions_boundary

  assume_role_policy = jsonencode({
    Version   = "2012-10-17"
    Statement = [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "ec2.amazonaws.com" } }]
  })
}

resource "aws_iam_instance_profile" "node" {
  for_each = local.roles

  name_prefix = "${local.tag}-${substr(each.key, 0, 1)}-"
  role        = aws_iam_role.node[each.key].name
}

resource "aws_iam_role_policy" "node" {
  for_each = local.roles

  name   = "node"
  role   = aws_iam_role.node[each.key].id
  policy = jsonencode({ Version = "2012-10-17", Statement = concat(local.own_data, local.others_data, local.token, local.sessions, local.leaving[each.key]) })
}
