variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "machine" {
  description = "The instance type."
  type        = string
}

variable "image" {
  description = "The image."
  type        = object({ id = string })
}

variable "subnet_id" {
  description = "The private subnet."
  type        = string
}

variable "nodes_group_id" {
  description = "The security group of all nodes."
  type        = string
}

variable "profile" {
  description = "The instance profile."
  type        = string
}

variable "disk_gb" {
  description = "The root disk."
  type        = number
  default     = 50
}

variable "data_disk_gb" {
  description = "The data disk, which outlives the machine."
  type        = number
}

variable "kms_key" {
  description = "ARN of the key of the disks; null: AWS's own."
  type        = string
  default     = null
}

variable "endpoints" {
  description = "The interface endpoints of the VPC, by service: the machine starts after them."
  type        = map(string)
  default     = {}
}

variable "head_idle_minutes" {
  description = "It stops after so long without work; null: never."
  type        = number
  default     = null
}

variable "boot" {
  description = "What the boot script of every node says; see the module boot."
  type = object({
    region           = string
    folder           = string
    python           = optional(string)
    bucket           = string
    files            = map(object({ key = string, sha256 = string }))
    boto3            = string
    index_url        = optional(string)
    token_parameter  = string
    parameters       = map(string)
    environment_file = optional(string)
    gcs_port         = number
    dashboard_port   = number
  })
}
