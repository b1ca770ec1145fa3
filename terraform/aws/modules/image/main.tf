# An image, given or looked up. One that was looked up is remembered: a newer one would replace every machine in the
# middle of its work. To take the newest: terraform apply -replace='module.image["worker"].terraform_data.remembered'

data "aws_ssm_parameter" "newest" {
  count = var.ami == null ? 1 : 0
  name  = var.parameter
}

resource "terraform_data" "remembered" {
  count = var.ami == null ? 1 : 0
  input = nonsensitive(data.aws_ssm_parameter.newest[0].value)

  lifecycle {
    ignore_changes = [input]
  }
}

data "aws_ami" "this" {
  filter {
    name   = "image-id"
    values = [var.ami == null ? terraform_data.remembered[0].output : var.ami]
  }

  lifecycle {
    postcondition {
      condition     = self.architecture == "x86_64"
      error_message = "Image ${self.id} is for ${self.architecture}. Only x86_64 images do."
    }
  }
}
