variable "ami" {
  description = "The image's id; null: looked up."
  type        = string
  default     = null
}

variable "parameter" {
  description = "The public SSM parameter that has the id of the newest image."
  type        = string
}
