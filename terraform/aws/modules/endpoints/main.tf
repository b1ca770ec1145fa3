# Inside a VPC without a way out: the services that the nodes need besides S3, at private addresses.

data "aws_region" "here" {}

locals {
  # ssm and ssmmessages: sessions, tunnels and the token; autoscaling: an idle worker leaves.
  services = toset(["ssm", "ssmmessages", "autoscaling"])
}

resource "aws_security_group" "endpoints" {
  name_prefix = "tuneyard-${var.name}-endpoints-"
  description = "Endpoints of the tuneyard cluster ${var.name}: HTTPS from its nodes"
  vpc_id      = var.vpc_id
  tags        = { Name = "tuneyard-${var.name}-endpoints" }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_vpc_security_group_ingress_rule" "https_from_nodes" {
  security_group_id            = aws_security_group.endpoints.id
  referenced_security_group_id = var.nodes_group_id
  description                  = "HTTPS from the nodes"
  ip_protocol                  = "tcp"
  from_port                    = 443
  to_port                      = 443
}

resource "aws_vpc_endpoint" "service" {
  for_each = local.services

  vpc_id              = var.vpc_id
  service_name        = "com.amazonaws.${data.aws_region.here.name}.${each.key}"
  vpc_endpoint_type   = "Interface"
  private_dns_enabled = true
  subnet_ids          = var.subnet_ids
  security_group_ids  = [aws_security_group.endpoints.id]
  tags                = { Name = "tuneyard-${var.name}-${each.key}" }
}
