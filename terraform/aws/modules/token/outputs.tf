output "parameter" {
  description = "The name of the SSM parameter."
  value       = aws_ssm_parameter.token.name
}
