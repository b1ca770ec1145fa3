# Who may reach the nodes, and what the nodes may do.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name            = "lab"
  vpc_id          = "vpc-1"
  bucket          = "bucket"
  token_parameter = "/tuneyard/lab/token"
}

run "groups" {
  module {
    source = "./modules/access"
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.each_other.referenced_security_group_id == aws_security_group.nodes.id && aws_vpc_security_group_ingress_rule.each_other.security_group_id == aws_security_group.nodes.id
    error_message = "the nodes' group admits itself"
  }
  assert {
    condition     = aws_vpc_security_group_ingress_rule.each_other.cidr_ipv4 == null && aws_vpc_security_group_ingress_rule.each_other.cidr_ipv6 == null && length(aws_security_group.nodes.ingress) == 0
    error_message = "and nobody else: no range of addresses, for port 8265 or any other"
  }
  assert {
    condition     = toset([aws_vpc_security_group_egress_rule.https.to_port, aws_vpc_security_group_egress_rule.http.to_port]) == toset([443, 80])
    error_message = "out go HTTPS and the package mirrors' HTTP alone"
  }
}

run "rights" {
  module {
    source = "./modules/access"
  }
  variables {
    parameters = { COMET_API_KEY = "/me/comet" }
    read_only  = ["s3://images/train"]
  }

  assert {
    condition     = !strcontains(join("", [for policy in aws_iam_role_policy.node : policy.policy]), "Delete")
    error_message = "no node may delete anything"
  }
  assert {
    condition     = alltrue([for statement in jsondecode(aws_iam_role_policy.node["worker"].policy).Statement : alltrue([for action in statement.Action : !strcontains(action, "*")])])
    error_message = "every right is named"
  }
  assert {
    condition = toset([for statement in jsondecode(aws_iam_role_policy.node["worker"].policy).Statement : statement.Sid if contains(statement.Resource, "*")]) == toset([
      "Sessions", "SeeWhatWaitsForIt"
    ])
    error_message = "only what knows no resources is for all of them"
  }
  assert {
    condition = toset(flatten([for statement in jsondecode(aws_iam_role_policy.node["head"].policy).Statement : statement.Resource if contains(statement.Action, "s3:PutObject")])) == toset([
      "arn:aws:s3:::bucket/runs/*", "arn:aws:s3:::bucket/tuneyard/logs/*"
    ])
    error_message = "nodes write runs, and the log of a failed boot"
  }
  assert {
    condition = toset(flatten([for statement in jsondecode(aws_iam_role_policy.node["head"].policy).Statement : statement.Resource if contains(statement.Action, "ssm:GetParameter")])) == toset([
      "arn:aws:ssm:eu-central-1:111122223333:parameter/tuneyard/lab/token", "arn:aws:ssm:eu-central-1:111122223333:parameter/me/comet"
    ])
    error_message = "nodes read the token and the parameters that were named, and no other"
  }
  assert {
    condition     = contains(flatten([for statement in jsondecode(aws_iam_role_policy.node["head"].policy).Statement : statement.Resource if try(statement.Sid, "") == ""]), "arn:aws:s3:::images/train/*")
    error_message = "data elsewhere are read below the prefix alone"
  }
  assert {
    condition = [for statement in jsondecode(aws_iam_role_policy.node["worker"].policy).Statement : statement.Condition if try(statement.Sid, "") == "LeaveTheGroup"] == [
      { StringEquals = { "aws:ResourceTag/tuneyard-cluster" = "lab" } }
    ]
    error_message = "a worker may end itself and its like, of this cluster alone"
  }
  assert {
    condition     = length(regexall("autoscaling:", aws_iam_role_policy.node["head"].policy)) == 0
    error_message = "the head has no rights over the workers' groups"
  }
}

run "deleting_when_it_is_allowed" {
  module {
    source = "./modules/access"
  }
  variables {
    nodes_may_delete = true
  }

  assert {
    condition     = flatten([for statement in jsondecode(aws_iam_role_policy.node["worker"].policy).Statement : statement.Resource if contains(statement.Action, "s3:DeleteObject")]) == ["arn:aws:s3:::bucket/runs/*"]
    error_message = "under runs/ alone"
  }
}
