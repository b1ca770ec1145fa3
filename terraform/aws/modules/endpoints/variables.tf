variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "vpc_id" {
  description = "The VPC."
  type        = string
}

variable "subnet_ids" {
  description = "Where the endpoints get their addresses: one subnet for each zone."
  type        = list(string)
}

variable "nodes_group_id" {
  description = "The nodes' security group, which alone is admitted."
  type        = string
}
