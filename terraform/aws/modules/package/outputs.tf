output "files" {
  description = "What the nodes fetch, by role (package, constraints), each with its key and digest."
  value       = { for role, file in aws_s3_object.file : role => { key = file.key, sha256 = local.sha256[role] } }
}
