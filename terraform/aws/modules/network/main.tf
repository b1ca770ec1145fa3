# A VPC with private subnets for the nodes. None of them has a public address; the way out is a NAT gateway, if any.

data "aws_availability_zones" "here" {
  #checkov:skip=CKV_AWS_394:The subnets keep the zones of the first apply, see ignore_changes there.
  state = "available"

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

data "aws_region" "here" {}

locals {
  names = data.aws_availability_zones.here.names
  # Eight blocks: six for the nodes of at most six zones, the last for the NAT gateway.
  blocks = { for index in range(min(var.zones, length(local.names))) : index => cidrsubnet(var.cidr, 3, index) }
  nat    = var.internet == "nat" ? { one = cidrsubnet(var.cidr, 8, 255) } : {}
}

resource "aws_vpc" "this" {
  #checkov:skip=CKV2_AWS_11:Flow logs are paid by the GB and name no process; who needs them adds them to the VPC's id.
  cidr_block           = var.cidr
  enable_dns_support   = true
  enable_dns_hostnames = true
  tags                 = { Name = "tuneyard-${var.name}" }
}

# Every VPC has a default group that admits its members; ours has no rules, so that nothing joins it by mistake.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.this.id
}

resource "aws_subnet" "nodes" {
  for_each = local.blocks

  vpc_id                  = aws_vpc.this.id
  availability_zone       = local.names[each.key]
  cidr_block              = each.value
  map_public_ip_on_launch = false
  tags                    = { Name = "tuneyard-${var.name}-${each.key}" }

  lifecycle {
    ignore_changes = [availability_zone] # a zone that AWS adds would move the others in the list, and all machines
  }
}

resource "aws_route_table" "nodes" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "tuneyard-${var.name}-nodes" }
}

resource "aws_route_table_association" "nodes" {
  for_each = aws_subnet.nodes

  subnet_id      = each.value.id
  route_table_id = aws_route_table.nodes.id
}

# Checkpoints and data do not pass the NAT gateway, which would charge for each GB.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${data.aws_region.here.name}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.nodes.id]
  tags              = { Name = "tuneyard-${var.name}-s3" }
}

resource "aws_internet_gateway" "out" {
  for_each = local.nat

  vpc_id = aws_vpc.this.id
  tags   = { Name = "tuneyard-${var.name}" }
}

resource "aws_subnet" "nat" {
  for_each = local.nat

  vpc_id                  = aws_vpc.this.id
  availability_zone       = local.names[0]
  cidr_block              = each.value
  map_public_ip_on_launch = false
  tags                    = { Name = "tuneyard-${var.name}-nat" }

  lifecycle {
    ignore_changes = [availability_zone]
  }
}

resource "aws_route_table" "nat" {
  for_each = local.nat

  vpc_id = aws_vpc.this.id
  tags   = { Name = "tuneyard-${var.name}-nat" }
}

resource "aws_route" "nat_to_internet" {
  for_each = local.nat

  route_table_id         = aws_route_table.nat[each.key].id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.out[each.key].id
}

resource "aws_route_table_association" "nat" {
  for_each = local.nat

  subnet_id      = aws_subnet.nat[each.key].id
  route_table_id = aws_route_table.nat[each.key].id
}

resource "aws_eip" "nat" {
  for_each = local.nat

  domain     = "vpc"
  depends_on = [aws_internet_gateway.out]
  tags       = { Name = "tuneyard-${var.name}-nat" }
}

resource "aws_nat_gateway" "out" {
  for_each = local.nat

  allocation_id = aws_eip.nat[each.key].id
  subnet_id     = aws_subnet.nat[each.key].id
  depends_on    = [aws_route.nat_to_internet]
  tags          = { Name = "tuneyard-${var.name}" }
}

resource "aws_route" "nodes_to_nat" {
  for_each = local.nat

  route_table_id         = aws_route_table.nodes.id
  destination_cidr_block = "0.0.0.0/0"
  nat_gateway_id         = aws_nat_gateway.out[each.key].id
}
