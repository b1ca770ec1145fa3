output "inventory" {
  description = "The cluster as tuneyard reads it (cluster/inventory.py). It holds no secret."
  value = {
    format       = 1
    name         = var.name
    kind         = "onprem"
    version      = local.version
    region       = null
    head         = local.node["head"]
    head_machine = null
    workers      = [for name in keys(var.workers) : local.node[name]]
    groups       = []

    gcs_port       = var.gcs_port
    dashboard_port = var.dashboard_port
    token          = { file = local.token_file, parameter = null }
    python         = local.python
    folder         = local.folder
    store          = var.store
    endpoint_url   = var.endpoint_url
    tls            = var.tls
  }

  # Who reads it may connect at once.
  depends_on = [module.head, module.workers]
}

locals {
  node = {
    for name, host in local.hosts : name => {
      name        = name
      address     = host.address
      ssh         = host.ssh
      instance_id = null
      group       = ""
    }
  }
}
