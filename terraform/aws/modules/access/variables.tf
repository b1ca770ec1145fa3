variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "vpc_id" {
  description = "The VPC of the nodes."
  type        = string
}

variable "bucket" {
  description = "The bucket: the nodes keep runs under runs/, read data/ and the package."
  type        = string
}

variable "token_parameter" {
  description = "Name of the SSM parameter with Ray's token."
  type        = string
}

variable "parameters" {
  description = "Environment variables, each with the SSM parameter that has its value."
  type        = map(string)
  default     = {}
}

variable "read_only" {
  description = "s3://bucket/prefix: what the nodes may read besides."
  type        = list(string)
  default     = []
}

variable "nodes_may_delete" {
  description = "May the nodes delete under runs/?"
  type        = bool
  default     = false
}

variable "kms_key" {
  description = "ARN of the key of the bucket and the token, where it is not AWS's own."
  type        = string
  default     = null
}

variable "permissions_boundary" {
  description = "ARN of a permissions boundary for the roles."
  type        = string
  default     = null
}
