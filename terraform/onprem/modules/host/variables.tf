variable "name" {
  description = "The node's name in the cluster."
  type        = string
}

variable "ssh" {
  description = "How this machine reaches the host over SSH."
  type = object({
    host        = string
    user        = string
    port        = number
    key_file    = optional(string)
    jump        = optional(string)
    known_hosts = optional(string)
  })
}

variable "config" {
  description = "node.json: what the node's program must know (cluster/node/config.py). No secret."
  type = object({
    cluster          = string
    role             = string
    name             = string
    address          = string
    head             = string
    kind             = string
    gcs_port         = number
    dashboard_port   = number
    num_cpus         = optional(number)
    num_gpus         = optional(number)
    environment_file = optional(string)
    scratch          = optional(string)
    tls              = bool
  })
}

variable "folder" {
  description = "The cluster's own folder on the host."
  type        = string
}

variable "program" {
  description = "Where tuneyard is on the host: `python` has it already, or will once `package` is installed there."
  type = object({
    python      = string
    package     = optional(string)
    constraints = optional(string)
    base_python = string
    version     = optional(string)
  })
}

variable "secrets" {
  description = "Where the token and the certificates' authority lie on this machine; no authority, no TLS."
  type = object({
    token_file = string
    authority  = optional(string)
  })
}

variable "start_within_s" {
  description = "Seconds that Ray may take to come up."
  type        = number
}
