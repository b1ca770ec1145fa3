# The script of a node's first boot. It is small, has no secret, and leaves all that is more to the node's own program.

locals {
  config = {
    cluster           = var.cluster
    role              = var.role
    head              = var.head
    kind              = "aws"
    region            = var.region
    gcs_port          = var.gcs_port
    dashboard_port    = var.dashboard_port
    num_gpus          = var.role == "head" ? 0 : null
    token_parameter   = var.token_parameter
    parameters        = var.parameters
    environment_file  = var.environment_file
    idle_minutes      = var.idle_minutes
    head_idle_minutes = var.head_idle_minutes
    autoscaling_group = var.autoscaling_group
  }

  script = templatefile("${path.module}/boot.sh.tftpl", {
    cluster       = var.cluster
    region        = var.region
    role          = var.role
    folder        = var.folder
    python        = coalesce(var.python, "${var.folder}/env/bin/python")
    bucket        = var.bucket
    files         = var.files
    boto3         = var.boto3
    index_option  = var.index_url == null ? "" : " --index-url '${var.index_url}'"
    leave_after_s = var.role == "worker" && var.idle_minutes != null ? floor(coalesce(var.idle_minutes, 0) * 60) : null
    node_name     = var.role == "head" ? "head" : "$instance"
    data_volume   = var.data_volume == null ? "" : replace(var.data_volume, "-", "")
    config        = jsonencode(local.config)
  })
}
