# The wheel and the pinned versions, uploaded under the digest of what is in them.

locals {
  files  = { for role, path in { package = var.package, constraints = var.constraints } : role => path if path != null }
  sha256 = { for role, path in local.files : role => filesha256(path) }
  # One folder for both: other pins are another package.
  folder = "tuneyard/packages/${substr(sha256(join(" ", values(local.sha256))), 0, 16)}"
}

resource "aws_s3_object" "file" {
  for_each = local.files

  bucket = var.bucket
  # pip reads the version from a wheel's name, which must stay; the other file's name is the user's, and unknown.
  key         = "${local.folder}/${each.key == "package" ? basename(each.value) : "constraints.txt"}"
  source      = each.value
  source_hash = local.sha256[each.key]
}
