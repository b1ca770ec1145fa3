variable "name" {
  description = "The cluster's name."
  type        = string
}

variable "usd_per_month" {
  description = "The limit."
  type        = number
}

variable "emails" {
  description = "Who gets the mail."
  type        = list(string)
}
