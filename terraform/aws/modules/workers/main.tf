# Workers that are alike: a launch template, and an autoscaling group that keeps as many of them as Terraform says.

data "aws_ec2_instance_type" "machine" {
  for_each = toset(var.machines)

  instance_type = each.key

  lifecycle {
    postcondition {
      condition     = contains(self.supported_architectures, "x86_64")
      error_message = "groups: ${each.key} is not x86-64, for which the image and the packages are."
    }
  }
}

locals {
  title = "tuneyard-${var.cluster}-${var.group}"
  tags  = merge(var.tags, { Name = local.title })

  gpus = { for type, machine in data.aws_ec2_instance_type.machine : type => sum(concat([0], [for gpu in machine.gpus : gpu.count])) }
  # As many adapters as the type that has the fewest: the template is the same for all.
  adapters = min([for machine in data.aws_ec2_instance_type.machine : machine.efa_supported ? machine.efa_maximum_interfaces : 0]...)
  efa      = coalesce(var.efa, local.adapters > 0)
  close    = coalesce(var.placement_group, local.efa)
}

# A warning, and no error: these machines work, and their security group keeps others out.
check "traffic_is_encrypted" {
  assert {
    condition     = alltrue([for machine in data.aws_ec2_instance_type.machine : machine.encryption_in_transit_supported])
    error_message = "groups: ${join(", ", [for type, machine in data.aws_ec2_instance_type.machine : type if !machine.encryption_in_transit_supported])} in ${var.group} does not encrypt the traffic between machines, as newer types do in hardware."
  }
}

module "boot" {
  source = "../boot"

  cluster           = var.cluster
  role              = "worker"
  head              = var.head
  region            = var.boot.region
  folder            = var.boot.folder
  python            = var.boot.python
  bucket            = var.boot.bucket
  files             = var.boot.files
  boto3             = var.boot.boto3
  index_url         = var.boot.index_url
  token_parameter   = var.boot.token_parameter
  parameters        = var.boot.parameters
  environment_file  = var.boot.environment_file
  gcs_port          = var.boot.gcs_port
  dashboard_port    = var.boot.dashboard_port
  idle_minutes      = var.idle_minutes
  autoscaling_group = local.title
}

resource "aws_placement_group" "close" {
  count = local.close ? 1 : 0

  name     = local.title
  strategy = "cluster"
}

resource "aws_launch_template" "worker" {
  name_prefix            = "${local.title}-"
  description            = "Workers of the tuneyard cluster ${var.cluster}, group ${var.group}"
  image_id               = var.image.id
  user_data              = base64encode(module.boot.script)
  update_default_version = true
  ebs_optimized          = "true"

  iam_instance_profile {
    name = var.profile
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  block_device_mappings {
    device_name = var.image.root_device

    ebs {
      volume_type           = "gp3"
      volume_size           = var.disk_gb
      throughput            = 250
      encrypted             = "true"
      kms_key_id            = var.kms_key
      delete_on_termination = "true"
    }
  }

  dynamic "network_interfaces" {
    for_each = range(local.efa ? local.adapters : 1)

    content {
      # The first has device 0 of card 0, every other device 1 of its own card (EC2: EFA with several network cards).
      device_index       = network_interfaces.value == 0 ? 0 : 1
      network_card_index = network_interfaces.value == 0 ? null : network_interfaces.value
      interface_type     = local.efa ? "efa" : null
      security_groups    = [var.nodes_group_id]
      # EC2 refuses the word, even "false", where there are several interfaces; those never get a public address.
      associate_public_ip_address = local.efa && local.adapters > 1 ? null : "false"
      delete_on_termination       = "true"
    }
  }

  dynamic "placement" {
    for_each = aws_placement_group.close

    content {
      group_name = placement.value.name
    }
  }

  dynamic "tag_specifications" {
    for_each = toset(["instance", "volume", "network-interface"])

    content {
      resource_type = tag_specifications.key
      tags          = local.tags
    }
  }

  lifecycle {
    precondition {
      condition     = length(distinct(values(local.gpus))) == 1
      error_message = "groups: the types of ${var.group} have different numbers of GPUs (${join(", ", [for type, count in local.gpus : "${type}: ${count}"])}). A trial that fits one would not fit the other: make two groups."
    }
    precondition {
      condition     = !local.efa || local.adapters > 0
      error_message = "groups: efa is asked for in ${var.group}, and ${join(", ", [for type, machine in data.aws_ec2_instance_type.machine : type if !machine.efa_supported])} has none. Set efa = false, or choose other types."
    }
  }
}

resource "aws_autoscaling_group" "workers" {
  # A fixed name: should an apply be killed here, the next one finds the group there and says so, and makes no second one
  # whose machines nobody knows of.
  name                      = local.title
  min_size                  = 0
  desired_capacity          = var.workers
  max_size                  = var.workers
  vpc_zone_identifier       = local.close ? slice(var.subnet_ids, 0, 1) : var.subnet_ids # one zone, as the group must be
  health_check_type         = "EC2"
  health_check_grace_period = 300
  capacity_rebalance        = var.on_demand_percent < 100 # a spot machine in danger is replaced before it goes
  wait_for_capacity_timeout = "0"                         # GPUs may be hard to get: the apply does not wait for them
  # Evening out the zones would end machines at work.
  suspended_processes = ["AZRebalance"]

  mixed_instances_policy {
    launch_template {
      launch_template_specification {
        launch_template_id = aws_launch_template.worker.id
        version            = aws_launch_template.worker.latest_version
      }

      dynamic "override" {
        for_each = var.machines

        content {
          instance_type = override.value
        }
      }
    }

    instances_distribution {
      on_demand_allocation_strategy            = "prioritized"
      on_demand_base_capacity                  = 0
      on_demand_percentage_above_base_capacity = var.on_demand_percent
      spot_allocation_strategy                 = "price-capacity-optimized"
    }
  }

  # Workers of an older package do not go with the head of the new one. What they do is saved first, by the hook below.
  dynamic "instance_refresh" {
    for_each = var.replace_running ? [1] : []

    content {
      strategy = "Rolling"

      preferences {
        min_healthy_percentage = 0
        skip_matching          = true
      }
    }
  }

  dynamic "tag" {
    for_each = local.tags

    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  timeouts {
    delete = "20m"
  }
}

# A machine that the group ends gets this long first; its node saves, leaves, and completes the action sooner.
resource "aws_autoscaling_lifecycle_hook" "leave" {
  name                   = "leave"
  autoscaling_group_name = aws_autoscaling_group.workers.name
  lifecycle_transition   = "autoscaling:EC2_INSTANCE_TERMINATING"
  heartbeat_timeout      = var.leave_s
  default_result         = "CONTINUE"
}
