variable "cluster" {
  description = "The cluster's name."
  type        = string
}

variable "group" {
  description = "The group's name."
  type        = string
}

variable "workers" {
  description = "How many workers."
  type        = number
}

variable "machines" {
  description = "Instance types, in order of preference."
  type        = list(string)
}

variable "on_demand_percent" {
  description = "So many of a hundred are on demand, the rest spot."
  type        = number
  default     = 100
}

variable "disk_gb" {
  description = "The root disk."
  type        = number
  default     = 150
}

variable "efa" {
  description = "Elastic Fabric Adapters; null: where every type has them."
  type        = bool
  default     = null
}

variable "placement_group" {
  description = "Close together, in one zone; null: where EFA is."
  type        = bool
  default     = null
}

variable "image" {
  description = "The image, and the name of its root disk."
  type        = object({ id = string, root_device = string })
}

variable "head" {
  description = "The head's private address."
  type        = string
}

variable "subnet_ids" {
  description = "The private subnets; workers that are close together use the first."
  type        = list(string)
}

variable "nodes_group_id" {
  description = "The security group of all nodes."
  type        = string
}

variable "profile" {
  description = "The instance profile."
  type        = string
}

variable "kms_key" {
  description = "ARN of the key of the disks; null: AWS's own."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of the machines and what is theirs, which provider defaults do not reach."
  type        = map(string)
}

variable "idle_minutes" {
  description = "A worker without work for so long leaves; null: never."
  type        = number
  default     = null
}

variable "replace_running" {
  description = "Does a change of package, image or settings replace the workers that run?"
  type        = bool
  default     = true
}

variable "leave_s" {
  description = "How long a worker that is ended has for saving."
  type        = number
  default     = 300
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
