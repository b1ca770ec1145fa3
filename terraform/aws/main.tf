# A Ray cluster on AWS: a head without GPU, groups of workers, a bucket. See variables.tf; nothing must be given.

data "aws_region" "here" {}

locals {
  tags   = merge(var.tags, { tuneyard-cluster = var.name })
  folder = "/opt/tuneyard/${var.name}"
  counts = try({ for group in keys(var.groups) : group => tonumber(var.workers) }, { for group, count in var.workers : group => tonumber(count) })

  # In a checkout: its one wheel, and its pins.
  checkout    = "${path.module}/../.."
  wheels      = [for wheel in fileset(local.checkout, "dist/tuneyard-*.whl") : "${local.checkout}/${wheel}"]
  package     = var.python != null ? null : try(coalesce(var.package, length(local.wheels) == 1 ? local.wheels[0] : null), null)
  pins        = "${local.checkout}/constraints.txt"
  constraints = local.package == null ? null : var.constraints != null ? var.constraints : fileexists(local.pins) ? local.pins : null
  # pip gets this one first, since it fetches the package from the bucket.
  boto3 = local.constraints == null ? "boto3" : try(regex("(?m)^boto3==[0-9][0-9.]*", file(local.constraints)), "boto3")

  boot = {
    region           = data.aws_region.here.name
    folder           = local.folder
    python           = var.python
    bucket           = local.bucket
    files            = merge({}, module.package[*].files...)
    boto3            = local.boto3
    index_url        = var.index_url
    token_parameter  = module.token.parameter
    parameters       = var.parameters
    environment_file = var.environment_file
    gcs_port         = var.gcs_port
    dashboard_port   = var.dashboard_port
  }

  # By index, and not by splat: who uses a splat waits for all that is in the module, such as the lifecycle rules' minute.
  bucket     = var.bucket != null ? var.bucket : module.bucket[0].name
  vpc_id     = var.network != null ? var.network.vpc_id : module.network[0].vpc_id
  subnet_ids = var.network != null ? var.network.subnet_ids : module.network[0].subnet_ids
}

module "network" {
  source = "./modules/network"
  count  = var.network == null ? 1 : 0

  name     = var.name
  cidr     = var.cidr
  zones    = var.zones
  internet = var.internet
}

module "endpoints" {
  source = "./modules/endpoints"
  count  = var.network == null && var.internet == "none" ? 1 : 0

  name           = var.name
  vpc_id         = local.vpc_id
  subnet_ids     = local.subnet_ids
  nodes_group_id = module.access.nodes_group_id
}

module "bucket" {
  source = "./modules/bucket"
  count  = var.bucket == null ? 1 : 0

  name            = var.name
  kms_key         = var.kms_key
  noncurrent_days = var.noncurrent_days
}

module "package" {
  source = "./modules/package"
  count  = var.python == null ? 1 : 0

  bucket      = local.bucket
  package     = local.package
  constraints = local.constraints
}

module "token" {
  source = "./modules/token"

  name          = var.name
  kms_key       = var.kms_key
  token_version = var.token_version
}

module "access" {
  source = "./modules/access"

  name                 = var.name
  vpc_id               = local.vpc_id
  bucket               = local.bucket
  token_parameter      = module.token.parameter
  parameters           = var.parameters
  read_only            = var.read_only
  nodes_may_delete     = var.nodes_may_delete
  kms_key              = var.kms_key
  permissions_boundary = var.permissions_boundary
}

module "head_image" {
  source = "./modules/image"

  ami       = var.head_ami
  parameter = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
}

# With NVIDIA's driver and the libraries of EFA; the same Ubuntu as the head's, and so the same Python.
module "worker_image" {
  source   = "./modules/image"
  for_each = { for group, kind in var.groups : group => kind.ami != null ? kind.ami : var.ami }

  ami       = each.value
  parameter = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
}

module "head" {
  source = "./modules/head"

  name              = var.name
  machine           = var.head_machine
  image             = module.head_image
  subnet_id         = local.subnet_ids[0]
  nodes_group_id    = module.access.nodes_group_id
  profile           = module.access.profiles["head"]
  data_disk_gb      = var.data_disk_gb
  kms_key           = var.kms_key
  head_idle_minutes = var.head_idle_minutes
  boot              = local.boot
  endpoints         = merge({}, module.endpoints[*].ids...)
}

module "workers" {
  source   = "./modules/workers"
  for_each = var.groups

  cluster           = var.name
  group             = each.key
  workers           = lookup(local.counts, each.key, 0)
  machines          = each.value.machines
  on_demand_percent = each.value.on_demand_percent
  disk_gb           = each.value.disk_gb
  efa               = each.value.efa
  placement_group   = each.value.placement_group
  image             = module.worker_image[each.key]
  head              = module.head.address
  subnet_ids        = local.subnet_ids
  nodes_group_id    = module.access.nodes_group_id
  profile           = module.access.profiles["worker"]
  kms_key           = var.kms_key
  tags              = local.tags
  idle_minutes      = var.idle_minutes
  leave_s           = var.leave_s
  replace_running   = var.replace_running
  boot              = local.boot
}

module "budget" {
  source = "./modules/budget"
  count  = var.budget == null ? 0 : 1

  name          = var.name
  usd_per_month = var.budget.usd_per_month
  emails        = var.budget.emails
}
