output "inventory" {
  description = "The cluster as tuneyard reads it (cluster/inventory.py). It holds no secret."
  value = {
    format  = 1
    name    = var.name
    kind    = "aws"
    version = local.package == null ? "" : regex("tuneyard-([^-]+)-", basename(local.package))[0]
    region  = data.aws_region.here.name
    head = {
      name        = "head"
      address     = module.head.address
      instance_id = module.head.instance_id
    }
    head_machine   = var.head_machine
    groups         = [for group in sort(keys(var.groups)) : module.workers[group].group]
    gcs_port       = var.gcs_port
    dashboard_port = var.dashboard_port
    token          = { parameter = module.token.parameter }
    python         = coalesce(var.python, "${local.folder}/env/bin/python")
    folder         = local.folder
    store          = "s3://${local.bucket}/runs"
  }
}

output "store" {
  description = "Where runs belong: checkpoint.store of an experiment."
  value       = "s3://${local.bucket}/runs"
}

output "tunnel" {
  description = "The plain way to the dashboard and the job server, at http://127.0.0.1:8265. Needs AWS's command line and its session-manager-plugin."
  value       = "aws ssm start-session --region ${data.aws_region.here.name} --target ${module.head.instance_id} --document-name AWS-StartPortForwardingSession --parameters portNumber=${var.dashboard_port},localPortNumber=8265"
}

output "token" {
  description = "The plain way to the token: a command that writes it into a file of your own. The token itself is in no output."
  value       = "(umask 077 && mkdir -p ~/.ray && aws ssm get-parameter --region ${data.aws_region.here.name} --with-decryption --name ${module.token.parameter} --query Parameter.Value --output text > ~/.ray/auth_token)"
}
