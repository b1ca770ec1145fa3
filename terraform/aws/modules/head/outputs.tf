output "address" {
  description = "The head's private address. Workers that use it start after the head."
  value       = aws_network_interface.head.private_ip
  depends_on  = [aws_instance.head]
}

output "instance_id" {
  description = "The machine, by which SSM reaches it."
  value       = aws_instance.head.id
}
