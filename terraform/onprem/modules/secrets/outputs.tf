output "token_file" {
  description = "Ray's token on this machine."
  value       = terraform_data.token.output.file
}

output "authority" {
  description = "The folder with ca.crt and ca.key on this machine; null without TLS."
  value       = one(terraform_data.authority[*].output.folder)
}
