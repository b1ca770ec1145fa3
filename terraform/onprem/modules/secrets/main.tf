# What the nodes share and nobody else may know. It is made on this machine; only paths are in the state.

resource "terraform_data" "token" {
  triggers_replace = var.token_file
  input            = { file = var.token_file, keep = var.keep_token }

  provisioner "local-exec" {
    command     = "bash ${path.module}/scripts/make-token.sh"
    environment = { TOKEN_FILE = var.token_file }
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "[ \"$KEEP\" = true ] || rm -f -- \"$TOKEN_FILE\""
    environment = { TOKEN_FILE = self.output.file, KEEP = self.output.keep }
  }
}

resource "terraform_data" "authority" {
  count = var.authority == null ? 0 : 1

  triggers_replace = var.authority
  input            = { folder = var.authority }

  provisioner "local-exec" {
    command     = "bash ${path.module}/scripts/make-authority.sh"
    environment = { AUTHORITY = var.authority, NAME = var.name }
  }

  provisioner "local-exec" {
    when        = destroy
    command     = "rm -f -- \"$AUTHORITY/ca.crt\" \"$AUTHORITY/ca.key\" && rmdir -- \"$AUTHORITY\""
    environment = { AUTHORITY = self.output.folder }
  }
}
