variable "bucket" {
  description = "The bucket that it is uploaded to."
  type        = string
}

variable "package" {
  description = "The wheel, on this machine."
  type        = string

  validation {
    condition     = var.package != null
    error_message = "package: none is given, and the checkout's folder dist does not have just one wheel. Make it there: pip wheel --no-deps --wheel-dir dist . Or give package, or python (of an image that has tuneyard)."
  }
}

variable "constraints" {
  description = "The pinned versions, on this machine; null: none."
  type        = string
  default     = null
}
