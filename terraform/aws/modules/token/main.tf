# Ray's token: made by the apply, kept in SSM, and nowhere else: a write-only argument is in no plan and no state.

resource "aws_ssm_parameter" "token" {
  name        = "/tuneyard/${var.name}/token"
  description = "Token of the Ray cluster ${var.name}: who has it may run code on its nodes"
  type        = "SecureString"
  key_id      = var.kms_key
  # Two random UUIDs have 244 bits from the system's secure generator, and become known only in the apply. Every run makes
  # new ones; the version alone says whether they are written.
  value_wo         = sensitive(replace("${uuid()}${uuid()}", "-", ""))
  value_wo_version = var.token_version
  overwrite        = true # that of an apply which was killed before it could keep its state
}
