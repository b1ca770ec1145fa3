output "nodes_group_id" {
  description = "The security group of all nodes."
  value       = aws_security_group.nodes.id
  # Nodes that start before the rules are there find neither the head nor S3.
  depends_on = [
    aws_vpc_security_group_ingress_rule.each_other,
    aws_vpc_security_group_egress_rule.each_other,
    aws_vpc_security_group_egress_rule.https,
    aws_vpc_security_group_egress_rule.http,
  ]
}

output "profiles" {
  description = "The instance profiles, by role: head and worker."
  value       = { for role, profile in aws_iam_instance_profile.node : role => profile.name }
  depends_on  = [aws_iam_role_policy.node]
}
