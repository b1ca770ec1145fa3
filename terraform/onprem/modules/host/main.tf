# One machine as a node. OpenSSH's own client does the talking, and not Terraform's connection: it checks host keys
# against known_hosts, hashed ones too, and on jump hosts, and knows the user's agent and configuration.

locals {
  ssh = {
    HOST        = var.ssh.host
    SSH_USER    = var.ssh.user
    PORT        = tostring(var.ssh.port)
    KEY_FILE    = coalesce(var.ssh.key_file, "-")
    JUMP        = coalesce(var.ssh.jump, "-")
    KNOWN_HOSTS = coalesce(var.ssh.known_hosts, "-")
  }
  node = merge(local.ssh, { NAME = var.name, FOLDER = var.folder, PYTHON = var.program.python })
  package = {
    PACKAGE     = coalesce(var.program.package, "-")
    CONSTRAINTS = coalesce(var.program.constraints, "-")
    BASE_PYTHON = var.program.base_python
    VERSION     = coalesce(var.program.version, "-")
  }
}

# The way down. It is a resource of its own and changes nothing on the host: one whose creation fails is never asked to
# clean up, so what may fail in the middle comes after it.
resource "terraform_data" "presence" {
  triggers_replace = [var.ssh.host, var.folder]
  input            = local.node

  provisioner "local-exec" {
    command     = "bash ${path.module}/scripts/check.sh"
    environment = merge(local.node, local.package)
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "bash ${path.module}/scripts/remove.sh"
    environment = self.output
  }
}

resource "terraform_data" "program" {
  triggers_replace = [
    terraform_data.presence.id,
    var.program.python,
    var.program.base_python,
    try(filesha256(var.program.package), null),
    try(filesha256(var.program.constraints), null),
  ]

  provisioner "local-exec" {
    command     = "bash ${path.module}/scripts/install.sh"
    environment = merge(local.node, local.package)
  }
}

resource "terraform_data" "service" {
  triggers_replace = [terraform_data.program.id, var.config, var.secrets]

  provisioner "local-exec" {
    command = "bash ${path.module}/scripts/start.sh"
    environment = merge(local.node, {
      ADDRESS        = var.config.address
      NODE_JSON      = jsonencode(var.config)
      TOKEN_FILE     = var.secrets.token_file
      AUTHORITY      = coalesce(var.secrets.authority, "-")
      START_WITHIN_S = tostring(var.start_within_s)
    })
  }
}
