output "group" {
  description = "The group, as the inventory has it."
  value = {
    name              = var.group
    machines          = var.machines
    count             = var.workers
    gpus              = max(values(local.gpus)...)
    on_demand_percent = var.on_demand_percent
    autoscaling_group = aws_autoscaling_group.workers.name
  }
}
