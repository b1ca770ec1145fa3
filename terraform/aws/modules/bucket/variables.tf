variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "kms_key" {
  description = "ARN of the key that encrypts the objects; null: keys that S3 manages."
  type        = string
  default     = null
}

variable "noncurrent_days" {
  description = "Overwritten and deleted objects are kept for so many days."
  type        = number
  default     = 14
}
