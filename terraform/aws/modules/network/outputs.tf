output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "subnet_ids" {
  description = "The private subnets, one for each zone. Known when the nodes in them have their way out."
  value       = [for index in range(length(local.blocks)) : aws_subnet.nodes[index].id]
  depends_on  = [aws_route.nodes_to_nat, aws_route_table_association.nodes, aws_vpc_endpoint.s3]
}
