variable "name" {
  description = "The cluster's name: lower-case letters, digits and dashes, at most 24 characters."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,23}$", var.name))
    error_message = "The name is ${jsonencode(var.name)}. Allowed: a lower-case letter, then letters, digits and dashes, 24 in all."
  }
}

variable "ssh" {
  description = <<-EOT
    How hosts are reached, where they do not say otherwise. OpenSSH's client does it: its agent and its configuration
    count. `key_file`: a private key on this machine. `jump`: user@host:port of a jump host, to which the same key and
    known hosts apply. `known_hosts`: a file; without it the user's own. Host keys are always checked.
  EOT
  type = object({
    user        = optional(string, "root")
    port        = optional(number, 22)
    key_file    = optional(string)
    jump        = optional(string)
    known_hosts = optional(string)
  })
  default = {}
}

variable "head" {
  description = <<-EOT
    The machine that runs Ray's head, and work too unless `num_cpus` is 0. `host`: where SSH connects. `address`: by
    which the other nodes reach it, an IPv4 address; the host where that is one. `num_cpus`, `num_gpus`: what Ray hands
    out; without them Ray counts. `scratch`: a folder for Ray's temporary files. The rest as in `ssh`, and
    `environment_file` as the variable of that name.
  EOT
  type = object({
    host             = string
    address          = optional(string)
    user             = optional(string)
    port             = optional(number)
    key_file         = optional(string)
    jump             = optional(string)
    known_hosts      = optional(string)
    num_cpus         = optional(number)
    num_gpus         = optional(number)
    scratch          = optional(string)
    environment_file = optional(string)
  })

  validation {
    condition     = can(cidrhost("${coalesce(var.head.address, var.head.host)}/32", 0))
    error_message = "The head's `address` must be an IPv4 address by which the workers reach it; `host` is ${var.head.host}."
  }
}

variable "workers" {
  description = "The other machines, by name; each as `head`."
  type = map(object({
    host             = string
    address          = optional(string)
    user             = optional(string)
    port             = optional(number)
    key_file         = optional(string)
    jump             = optional(string)
    known_hosts      = optional(string)
    num_cpus         = optional(number)
    num_gpus         = optional(number)
    scratch          = optional(string)
    environment_file = optional(string)
  }))
  default = {}

  validation {
    condition     = alltrue([for name in keys(var.workers) : can(regex("^[a-z0-9][a-z0-9-]{0,62}$", name)) && name != "head"])
    error_message = "Workers' names are lower-case letters, digits and dashes, and not `head`. Given: ${join(", ", keys(var.workers))}."
  }

  validation {
    condition     = alltrue([for worker in var.workers : can(cidrhost("${coalesce(worker.address, worker.host)}/32", 0))])
    error_message = "Every worker needs an `address`, an IPv4 address by which the other nodes reach it, unless its `host` is one."
  }

  validation {
    condition     = length(distinct([for one in concat([var.head], values(var.workers)) : coalesce(one.address, one.host)])) == 1 + length(var.workers)
    error_message = "Two nodes have one address. Each machine is one node."
  }
}

variable "python" {
  description = "A Python on the hosts that has tuneyard. Without it, `package` is installed into an environment of its own."
  type        = string
  default     = null

  validation {
    condition     = (var.python == null) != (var.package == null)
    error_message = "Give either `python`, a Python on the hosts that has tuneyard, or `package`, a wheel to install there."
  }

  validation {
    condition     = var.python == null || can(regex("^/", var.python))
    error_message = "`python` must be a full path on the hosts, such as /opt/venv/bin/python."
  }
}

variable "package" {
  description = "A wheel of tuneyard on this machine, to be installed on the hosts into FOLDER/env, with its dependencies."
  type        = string
  default     = null

  validation {
    condition     = var.package == null || can(regex("\\.whl$", var.package)) && can(filesha256(pathexpand(var.package)))
    error_message = "`package` must be a wheel's path on this machine."
  }
}

variable "constraints" {
  description = "A file of pip's constraints on this machine: the versions that `package` is installed with."
  type        = string
  default     = null

  validation {
    condition     = var.constraints == null || can(filesha256(pathexpand(var.constraints)))
    error_message = "`constraints` must be a file's path on this machine."
  }
}

variable "base_python" {
  description = "With `package`: the Python of the hosts, 3.11 or newer, that the environment is made with. The same minor version everywhere."
  type        = string
  default     = "python3"
}

variable "tuneyard_version" {
  description = "The version that must be on the hosts. Without it: the wheel's, or whatever `python` has."
  type        = string
  default     = null
}

variable "folder" {
  description = "The cluster's own folder on each host: a full path. Without it /opt/tuneyard/NAME."
  type        = string
  default     = null

  validation {
    condition     = var.folder == null || can(regex("^/[^/ ]+/[^ ]*[^/ ]$", var.folder))
    error_message = "`folder` must be a full path of two parts or more, without spaces: it is removed when the cluster is."
  }
}

variable "environment_file" {
  description = <<-EOT
    A file that you keep on each host, of mode 0600, with KEY=VALUE lines such as AWS_ACCESS_KEY_ID or COMET_API_KEY: the
    environment of all that runs on the cluster. Never sent, read here or kept in the state.
  EOT
  type        = string
  default     = null
}

variable "token_file" {
  description = "Ray's token, on this machine; made, of mode 0600, where it is not there. Without it NAME.token beside the state."
  type        = string
  default     = null
}

variable "tls" {
  description = "TLS between the nodes. The certificates' authority lies beside the token; keys are made on the hosts and stay there."
  type        = bool
  default     = false
}

variable "store" {
  description = "The URI under which runs belong, such as s3://bucket/prefix; for the inventory."
  type        = string
  default     = null
}

variable "endpoint_url" {
  description = "The address of the S3 server, where it is not AWS; for the inventory."
  type        = string
  default     = null
}

variable "gcs_port" {
  description = "The port on the head that the workers join at. Ray's agents and raylet take of the 102 after it, its workers 10002 to 19999."
  type        = number
  default     = 6379

  validation {
    condition     = var.gcs_port >= 1024 && var.gcs_port <= 9995
    error_message = "`gcs_port` is ${var.gcs_port}. Allowed: 1024 to 9995, as Ray's workers listen from 10002 on."
  }
}

variable "dashboard_port" {
  description = "The dashboard's port on the head, on 127.0.0.1 alone: reached through a tunnel."
  type        = number
  default     = 8265

  validation {
    condition = (var.dashboard_port >= 1024 && var.dashboard_port <= 65535 &&
    (var.dashboard_port < var.gcs_port || var.dashboard_port > var.gcs_port + 102))
    error_message = "`dashboard_port` is ${var.dashboard_port}. Allowed: 1024 to 65535, but not gcs_port and the 102 after it."
  }
}

variable "start_within_s" {
  description = "Seconds that Ray may take to come up on a host."
  type        = number
  default     = 180
}
