# Head and workers: closed disks, closed metadata, no public address, and no secret in what they boot with.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  cluster        = "lab"
  name           = "lab"
  group          = "gpu"
  workers        = 2
  machines       = ["g6.xlarge", "g5.xlarge"]
  machine        = "m7i.xlarge"
  image          = { id = "ami-0123456789abcdef0", root_device = "/dev/sda1" }
  head           = "10.64.0.10"
  subnet_id      = "subnet-1"
  subnet_ids     = ["subnet-1", "subnet-2"]
  nodes_group_id = "sg-1"
  profile        = "profile"
  data_disk_gb   = 100
  tags           = { tuneyard-cluster = "lab" }
  boot = {
    region          = "eu-central-1"
    folder          = "/opt/tuneyard/lab"
    bucket          = "bucket"
    files           = { package = { key = "tuneyard/packages/1/tuneyard-0.1.0-py3-none-any.whl", sha256 = "abc" } }
    boto3           = "boto3==1.44.0"
    token_parameter = "/tuneyard/lab/token"
    parameters      = { COMET_API_KEY = "/me/comet" }
    gcs_port        = 6379
    dashboard_port  = 8265
  }
}

run "head" {
  module {
    source = "./modules/head"
  }

  assert {
    condition     = aws_instance.head.metadata_options[0].http_tokens == "required" && aws_instance.head.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "IMDSv2 with hop limit 1"
  }
  assert {
    condition     = aws_instance.head.root_block_device[0].encrypted && aws_ebs_volume.data.encrypted
    error_message = "both disks are encrypted"
  }
  assert {
    condition     = tolist(aws_instance.head.network_interface)[0].network_interface_id == aws_network_interface.head.id
    error_message = "the head's address stays when the machine is replaced"
  }
  assert {
    condition     = !can(regex("(?i)AKIA[0-9A-Z]{16}|PRIVATE KEY|(secret|password|token|key)[a-z_]*[\"']?[=:][ \"']*[a-z0-9+/]{20,}", aws_instance.head.user_data))
    error_message = "the boot script has no secret"
  }
  assert {
    condition     = strcontains(aws_instance.head.user_data, "\"token_parameter\":\"/tuneyard/lab/token\"")
    error_message = "the boot script says where the token is"
  }
}

run "a_small_head_is_refused" {
  command = plan

  module {
    source = "./modules/head"
  }
  override_data {
    target = data.aws_ec2_instance_type.machine
    values = { supported_architectures = ["x86_64"], memory_size = 2048 }
  }
  expect_failures = [data.aws_ec2_instance_type.machine]
}

run "workers" {
  module {
    source = "./modules/workers"
  }

  assert {
    condition     = aws_launch_template.worker.metadata_options[0].http_tokens == "required" && aws_launch_template.worker.metadata_options[0].http_put_response_hop_limit == 1
    error_message = "IMDSv2 with hop limit 1"
  }
  assert {
    condition     = alltrue([for disk in aws_launch_template.worker.block_device_mappings : disk.ebs[0].encrypted == "true"])
    error_message = "every disk of the launch template is encrypted"
  }
  assert {
    condition     = alltrue([for nic in aws_launch_template.worker.network_interfaces : nic.associate_public_ip_address == "false" && toset(nic.security_groups) == toset(["sg-1"])])
    error_message = "no public address, and the nodes' group alone"
  }
  assert {
    condition     = !can(regex("(?i)AKIA[0-9A-Z]{16}|PRIVATE KEY|(secret|password|token|key)[a-z_]*[\"']?[=:][ \"']*[a-z0-9+/]{20,}", base64decode(aws_launch_template.worker.user_data)))
    error_message = "the boot script has no secret"
  }
  assert {
    condition     = strcontains(base64decode(aws_launch_template.worker.user_data), "\"head\":\"10.64.0.10\"")
    error_message = "the boot script knows the head"
  }
  assert {
    condition     = aws_autoscaling_group.workers.desired_capacity == 2 && aws_autoscaling_group.workers.max_size == 2 && aws_autoscaling_group.workers.min_size == 0
    error_message = "Terraform says how many; idle ones may go to zero"
  }
  assert {
    condition     = [for tag in aws_autoscaling_group.workers.tag : tag.propagate_at_launch if tag.key == "tuneyard-cluster" && tag.value == "lab"] == [true]
    error_message = "the machines carry the cluster's tag"
  }
  assert {
    condition     = aws_autoscaling_lifecycle_hook.leave.heartbeat_timeout == 300 && aws_autoscaling_lifecycle_hook.leave.lifecycle_transition == "autoscaling:EC2_INSTANCE_TERMINATING"
    error_message = "a worker that is ended has time for saving"
  }
  assert {
    condition     = length(aws_placement_group.close) == 0 && length(aws_launch_template.worker.network_interfaces) == 1
    error_message = "no placement group and no EFA for types without"
  }
}

run "spot" {
  command = plan

  module {
    source = "./modules/workers"
  }
  variables {
    on_demand_percent = 20
  }

  assert {
    condition     = aws_autoscaling_group.workers.mixed_instances_policy[0].instances_distribution[0].on_demand_percentage_above_base_capacity == 20 && aws_autoscaling_group.workers.capacity_rebalance
    error_message = "a fifth on demand; a spot machine in danger is replaced before it goes"
  }
  assert {
    condition     = [for one in aws_autoscaling_group.workers.mixed_instances_policy[0].launch_template[0].override : one.instance_type] == ["g6.xlarge", "g5.xlarge"]
    error_message = "the types in the order that was given"
  }
}

run "efa" {
  module {
    source = "./modules/workers"
  }
  variables {
    machines = ["p4d.24xlarge"]
  }
  override_data {
    target = data.aws_ec2_instance_type.machine
    values = {
      supported_architectures = ["x86_64"], efa_supported = true, efa_maximum_interfaces = 4, encryption_in_transit_supported = true
      gpus                    = [{ count = 8, manufacturer = "NVIDIA", memory_size = 40960, name = "A100" }]
    }
  }

  assert {
    condition     = [for nic in aws_launch_template.worker.network_interfaces : "${nic.interface_type}:${coalesce(nic.network_card_index, 0)}:${nic.device_index}"] == ["efa:0:0", "efa:1:1", "efa:2:1", "efa:3:1"]
    error_message = "one adapter for each network card"
  }
  assert {
    condition     = aws_placement_group.close[0].strategy == "cluster" && aws_launch_template.worker.placement[0].group_name == "tuneyard-lab-gpu"
    error_message = "close together"
  }
  assert {
    condition     = aws_autoscaling_group.workers.vpc_zone_identifier == toset(["subnet-1"]) && output.group.gpus == 8
    error_message = "in one zone, with eight GPUs each"
  }
}

run "efa_where_there_is_none_is_refused" {
  command = plan

  module {
    source = "./modules/workers"
  }
  variables {
    efa = true
  }
  expect_failures = [aws_launch_template.worker]
}

run "types_with_other_numbers_of_gpus_are_refused" {
  command = plan

  module {
    source = "./modules/workers"
  }
  override_data {
    target = data.aws_ec2_instance_type.machine["g5.xlarge"]
    values = { supported_architectures = ["x86_64"], efa_supported = false, encryption_in_transit_supported = true, gpus = [{ count = 4, manufacturer = "NVIDIA", memory_size = 1, name = "A10G" }] }
  }
  expect_failures = [aws_launch_template.worker]
}

run "unencrypted_traffic_is_told" {
  command = plan

  module {
    source = "./modules/workers"
  }
  override_data {
    target = data.aws_ec2_instance_type.machine
    values = { supported_architectures = ["x86_64"], efa_supported = false, encryption_in_transit_supported = false, gpus = [] }
  }
  expect_failures = [check.traffic_is_encrypted]
}

run "an_arm_machine_is_refused" {
  command = plan

  module {
    source = "./modules/workers"
  }
  override_data {
    target = data.aws_ec2_instance_type.machine
    values = { supported_architectures = ["arm64"], encryption_in_transit_supported = true }
  }
  expect_failures = [data.aws_ec2_instance_type.machine]
}

run "an_arm_image_is_refused" {
  command = plan

  module {
    source = "./modules/image"
  }
  variables {
    ami       = "ami-1"
    parameter = "/aws/service/none"
  }
  override_data {
    target = data.aws_ami.this
    values = { architecture = "arm64" }
  }
  expect_failures = [data.aws_ami.this]
}

run "an_image_is_looked_up" {
  module {
    source = "./modules/image"
  }
  variables {
    parameter = "/aws/service/one"
  }

  assert {
    condition     = terraform_data.remembered[0].output == "ami-0123456789abcdef0"
    error_message = "the newest image is remembered"
  }
}
