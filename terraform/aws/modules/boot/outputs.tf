output "script" {
  description = "The script, as user data takes it: in plain text."
  value       = local.script

  precondition {
    condition     = length(local.script) <= 16384
    error_message = "The boot script has ${length(local.script)} bytes, and EC2 takes 16384 at most."
  }
}
