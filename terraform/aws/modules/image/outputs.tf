output "id" {
  description = "The image's id."
  value       = data.aws_ami.this.id
}

output "root_device" {
  description = "The name of its root disk, such as /dev/sda1."
  value       = data.aws_ami.this.root_device_name
}
