# Machines that exist become one Ray cluster: over SSH, with no provider from a registry.

locals {
  folder     = coalesce(var.folder, "/opt/tuneyard/${var.name}")
  python     = coalesce(var.python, "${local.folder}/env/bin/python")
  token_file = abspath(pathexpand(coalesce(var.token_file, "${path.root}/${var.name}.token")))
  authority  = "${local.token_file}.tls"
  package    = var.package == null ? null : abspath(pathexpand(var.package))
  version    = coalesce(var.tuneyard_version, try(regex("^[^-]+-([^-]+)-", basename(var.package))[0], null), "unknown")

  hosts = {
    for name, host in merge({ head = var.head }, var.workers) : name => {
      address = coalesce(host.address, host.host)
      ssh = {
        host        = host.host
        user        = coalesce(host.user, var.ssh.user)
        port        = coalesce(host.port, var.ssh.port)
        key_file    = try(abspath(pathexpand(coalesce(host.key_file, var.ssh.key_file))), null)
        jump        = try(coalesce(host.jump, var.ssh.jump), null)
        known_hosts = try(abspath(pathexpand(coalesce(host.known_hosts, var.ssh.known_hosts))), null)
      }
      config = {
        cluster          = var.name
        role             = name == "head" ? "head" : "worker"
        name             = name
        address          = coalesce(host.address, host.host)
        head             = name == "head" ? "" : coalesce(var.head.address, var.head.host)
        kind             = "onprem"
        gcs_port         = var.gcs_port
        dashboard_port   = var.dashboard_port
        num_cpus         = host.num_cpus
        num_gpus         = host.num_gpus
        environment_file = try(coalesce(host.environment_file, var.environment_file), null)
        scratch          = host.scratch
        tls              = var.tls
      }
    }
  }

  program = {
    python      = local.python
    package     = local.package
    constraints = var.constraints == null ? null : abspath(pathexpand(var.constraints))
    base_python = var.base_python
    version     = local.version == "unknown" ? null : local.version
  }
}

module "secrets" {
  source = "./modules/secrets"

  name       = var.name
  token_file = local.token_file
  keep_token = var.token_file != null
  authority  = var.tls ? local.authority : null
}

module "head" {
  source = "./modules/host"

  name           = "head"
  ssh            = local.hosts["head"].ssh
  config         = local.hosts["head"].config
  folder         = local.folder
  program        = local.program
  secrets        = module.secrets
  start_within_s = var.start_within_s
}

module "workers" {
  source   = "./modules/host"
  for_each = var.workers

  name           = each.key
  ssh            = local.hosts[each.key].ssh
  config         = local.hosts[each.key].config
  folder         = local.folder
  program        = local.program
  secrets        = module.secrets
  start_within_s = var.start_within_s

  # A worker joins a head that runs, and leaves before the head does.
  depends_on = [module.head]
}
