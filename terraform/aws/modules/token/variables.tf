variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "kms_key" {
  description = "ARN of the key that encrypts it; null: AWS's own for SSM."
  type        = string
  default     = null
}

variable "token_version" {
  description = "A higher one makes a new token."
  type        = number
  default     = 1
}
