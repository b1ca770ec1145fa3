variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "cidr" {
  description = "Addresses of the VPC, a /16 to /20."
  type        = string
}

variable "zones" {
  description = "Over how many availability zones it goes, at most."
  type        = number
}

variable "internet" {
  description = "nat: a NAT gateway; none: no way out but to S3."
  type        = string
}
