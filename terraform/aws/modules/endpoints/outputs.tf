output "ids" {
  description = "The endpoints, by service."
  value       = { for service, endpoint in aws_vpc_endpoint.service : service => endpoint.id }
}
