variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "token_file" {
  description = "Where Ray's token lies on this machine; made where it is not there."
  type        = string
}

variable "keep_token" {
  description = "The token's file is the user's own: it stays when the cluster is destroyed."
  type        = bool
}

variable "authority" {
  description = "The folder on this machine for the certificates' authority. Null: no TLS."
  type        = string
  default     = null
}
