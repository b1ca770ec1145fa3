# The head: no GPU, no public address, and a private one that stays when the machine is replaced.

data "aws_subnet" "here" {
  id = var.subnet_id
}

data "aws_ec2_instance_type" "machine" {
  instance_type = var.machine

  lifecycle {
    postcondition {
      condition     = contains(self.supported_architectures, "x86_64")
      error_message = "head_machine: ${var.machine} is not x86-64. Choose one such as m7i.xlarge."
    }
    postcondition {
      condition     = self.memory_size >= 7500
      error_message = "head_machine: ${var.machine} has ${self.memory_size} MiB of memory, and a head needs 8 GiB. Choose one such as m7i.xlarge."
    }
  }
}

resource "aws_network_interface" "head" {
  subnet_id       = var.subnet_id
  security_groups = [var.nodes_group_id]
  description     = "Head of the tuneyard cluster ${var.name}: its address is what the workers know"
  tags            = { Name = "tuneyard-${var.name}-head" }
}

resource "aws_ebs_volume" "data" {
  availability_zone = data.aws_subnet.here.availability_zone
  size              = var.data_disk_gb
  type              = "gp3"
  encrypted         = true
  kms_key_id        = var.kms_key
  tags              = { Name = "tuneyard-${var.name}-data" }
}

module "boot" {
  source = "../boot"

  cluster           = var.name
  role              = "head"
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
  head_idle_minutes = var.head_idle_minutes
  data_volume       = aws_ebs_volume.data.id
}

# The machine must find SSM when it boots. A `depends_on` of the whole module would leave the data disk's zone unknown in
# a plan that changes an endpoint, and replace the disk.
resource "terraform_data" "endpoints" {
  input = var.endpoints
}

resource "aws_instance" "head" {
  #checkov:skip=CKV_AWS_126:Metrics by the minute cost extra, and Ray's dashboard has its own by the second.
  ami                                  = var.image.id
  instance_type                        = var.machine
  iam_instance_profile                 = var.profile
  ebs_optimized                        = true
  user_data                            = module.boot.script
  user_data_replace_on_change          = true
  instance_initiated_shutdown_behavior = "stop" # an idle head shuts itself down, and can be started again
  tags                                 = { Name = "tuneyard-${var.name}-head" }
  depends_on                           = [terraform_data.endpoints]

  network_interface {
    device_index         = 0
    network_interface_id = aws_network_interface.head.id
  }

  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
    instance_metadata_tags      = "disabled"
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = var.disk_gb
    encrypted   = true
    kms_key_id  = var.kms_key
    tags        = { Name = "tuneyard-${var.name}-head" }
  }
}

resource "aws_volume_attachment" "data" {
  device_name = "/dev/sdf"
  volume_id   = aws_ebs_volume.data.id
  instance_id = aws_instance.head.id
  # Detaching a disk that is mounted waits for ever; a stopped machine has let go of it.
  stop_instance_before_detaching = true
}

# A head that has stopped when it was idle is started by the next apply.
resource "aws_ec2_instance_state" "running" {
  instance_id = aws_instance.head.id
  state       = "running"
  depends_on  = [aws_volume_attachment.data]
}
