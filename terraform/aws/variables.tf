# What the cluster is

variable "name" {
  description = "The cluster's name. Everything that is made carries it, as the tag tuneyard-cluster too."
  type        = string
  default     = "tuneyard"

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]{0,22}[a-z0-9])?$", var.name))
    error_message = "name: 1 to 24 lower-case letters, digits and dashes, a letter first, no dash at the end."
  }
}

variable "region" {
  description = "The AWS region, such as eu-central-1. Null: what AWS_REGION or the profile says."
  type        = string
  default     = null
}

variable "tags" {
  description = "More tags, on everything that is made."
  type        = map(string)
  default     = {}
}

# The machines

variable "head_machine" {
  description = "Instance type of the head, which schedules and has no GPU: x86-64, 8 GiB of memory or more."
  type        = string
  default     = "m7i.xlarge"
}

variable "groups" {
  description = <<-EOT
    The kinds of workers, by name. Of each:
      machines           instance types, in order of preference; alike: x86-64, the same number of GPUs
      on_demand_percent  so many of a hundred are on demand, and the rest spot, which may be taken away
      disk_gb            the root disk, encrypted; what trials read and write is on local NVMe where the type has it
      efa                Elastic Fabric Adapters; null: where every type has them
      placement_group    close together, in one zone; null: where EFA is
      ami                null: as the variable `ami`
  EOT
  type = map(object({
    machines          = list(string)
    on_demand_percent = optional(number, 100)
    disk_gb           = optional(number, 150)
    efa               = optional(bool)
    placement_group   = optional(bool)
    ami               = optional(string)
  }))
  default = {
    gpu = { machines = ["g6.xlarge", "g5.xlarge"] }
  }
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.groups) : can(regex("^[a-z]([a-z0-9-]{0,14}[a-z0-9])?$", name))])
    error_message = "groups: a name is 1 to 16 lower-case letters, digits and dashes, a letter first, no dash at the end."
  }
  validation {
    condition     = alltrue([for group in var.groups : length(group.machines) > 0])
    error_message = "groups: every group needs one instance type or more in `machines`."
  }
  validation {
    condition = alltrue([
      for group in var.groups : group.on_demand_percent >= 0 && group.on_demand_percent <= 100 && floor(group.on_demand_percent) == group.on_demand_percent
    ])
    error_message = "groups: on_demand_percent is a whole number from 0 (all spot) to 100 (all on demand)."
  }
  validation {
    condition     = alltrue([for group in var.groups : group.disk_gb >= 30])
    error_message = "groups: disk_gb is 30 or more: the packages alone take 10 GB, beside the system."
  }
}

variable "workers" {
  description = "How many workers: a number where there is one group, or the number of each group: {small = 4, big = 1}."
  type        = any
  default     = 1
  nullable    = false

  validation {
    condition     = can(tonumber(var.workers)) ? length(var.groups) == 1 : can({ for group, count in var.workers : group => tonumber(count) })
    error_message = "workers: give a number where there is one group, and the number of each where there are several, as {${join(", ", [for group in keys(var.groups) : "${group} = 1"])}}."
  }
  validation {
    condition     = can(tonumber(var.workers)) || try(length(setsubtract(keys(var.workers), keys(var.groups))) == 0, true)
    error_message = "workers: names a group that is not there. The groups are: ${join(", ", keys(var.groups))}."
  }
  validation {
    condition     = try(alltrue([for count in try([tonumber(var.workers)], values(var.workers)) : count >= 0 && floor(count) == count]), true)
    error_message = "workers: whole numbers, 0 or more."
  }
}

variable "ami" {
  description = "Image of the workers, x86-64 Ubuntu with NVIDIA's driver and Python 3.11 or newer. Null: the newest Deep Learning Base AMI at the first apply (later ones keep it)."
  type        = string
  default     = null
}

variable "head_ami" {
  description = "Image of the head, x86-64 Ubuntu with the same Python as the workers'. Null: the newest Ubuntu 24.04 at the first apply (later ones keep it)."
  type        = string
  default     = null
}

variable "data_disk_gb" {
  description = "The head's data disk (EBS gp3, encrypted), mounted at /data: it stays when the head is replaced."
  type        = number
  default     = 100

  validation {
    condition     = var.data_disk_gb >= 10
    error_message = "data_disk_gb: 10 or more."
  }
}

# What runs on them

variable "package" {
  description = "The wheel of tuneyard on this machine; the apply uploads it. Null: the one in the checkout's folder dist. Make it with: pip wheel --no-deps --wheel-dir dist ."
  type        = string
  default     = null

  validation {
    condition     = var.package == null || can(regex("(^|/)tuneyard-[A-Za-z0-9_.+-]+\\.whl$", var.package)) && try(fileexists(var.package), false)
    error_message = "package: give the path of a wheel that exists, such as dist/tuneyard-0.1.0-py3-none-any.whl."
  }
}

variable "constraints" {
  description = "A file of pinned versions for pip. Null: constraints.txt of the checkout, where it is."
  type        = string
  default     = null

  validation {
    condition     = var.constraints == null || try(fileexists(var.constraints), false)
    error_message = "constraints: there is no such file."
  }
}

variable "python" {
  description = "A Python in the images that has tuneyard installed already. Null: an environment is made from `package` at boot."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^/[A-Za-z0-9_./-]+$", coalesce(var.python, "/-")))
    error_message = "python: the full path of a Python in the image, of letters, digits and _./- only."
  }
}

variable "index_url" {
  description = "Where pip finds packages. Null: PyPI."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^https://[A-Za-z0-9_.:/-]+$", coalesce(var.index_url, "https://-")))
    error_message = "index_url: https://…, without user and password: whoever may describe an instance sees it."
  }
}

variable "idle_minutes" {
  description = "A worker without work for so long leaves, and the next apply brings it back. Null: workers stay."
  type        = number
  default     = 30

  validation {
    condition     = coalesce(var.idle_minutes, 1) > 0
    error_message = "idle_minutes: more than 0, or null for never."
  }
}

variable "head_idle_minutes" {
  description = "The head stops when it had no workers and no jobs for so long, and the next apply starts it. Null: it stays."
  type        = number
  default     = null

  validation {
    condition     = coalesce(var.head_idle_minutes, 1) > 0
    error_message = "head_idle_minutes: more than 0, or null for never."
  }
}

variable "leave_s" {
  description = "Seconds that a worker has for saving and leaving when the group shrinks. Spot takes a machine away within 120 s, whatever this says."
  type        = number
  default     = 300

  validation {
    condition     = var.leave_s >= 30 && var.leave_s <= 7200
    error_message = "leave_s: from 30 to 7200."
  }
}

variable "replace_running" {
  description = "Does a change of package, image or settings replace the workers that run, after they have saved? False: only machines that start later have it."
  type        = bool
  default     = true
}

variable "gcs_port" {
  description = "Where the head's GCS listens, on its private address."
  type        = number
  default     = 6379
}

variable "dashboard_port" {
  description = "Where the head's dashboard and job server listen, on its loopback address only."
  type        = number
  default     = 8265
}

variable "environment_file" {
  description = "A file of KEY=VALUE lines that your image has, for Ray and all that it runs. We never write it."
  type        = string
  default     = null
}

variable "parameters" {
  description = "Environment variables from SSM parameters that you have made, such as {COMET_API_KEY = \"/me/comet\"}. The nodes may read these parameters; their values are in no file, plan or state of ours."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.parameters) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name))])
    error_message = "parameters: the keys are names of environment variables."
  }
  validation {
    condition     = alltrue([for name in values(var.parameters) : can(regex("^/?[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*$", name))])
    error_message = "parameters: the values are names of SSM parameters, such as /me/comet-api-key, and not the secrets themselves."
  }
}

# The data

variable "bucket" {
  description = "A bucket that exists, for runs and the package. Null: one is made, private, encrypted and versioned. It is never removed while something is in it."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", coalesce(var.bucket, "---"))) || var.bucket == null
    error_message = "bucket: a bucket's name, without s3:// and prefix."
  }
}

variable "kms_key" {
  description = "ARN of a KMS key for the disks, the bucket and the token. Null: AWS's own keys. With your own, its key policy must let the autoscaling service role use it."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^arn:[a-z-]+:kms:", coalesce(var.kms_key, "arn:aws:kms:")))
    error_message = "kms_key: the ARN of a key, such as arn:aws:kms:eu-central-1:111122223333:key/…"
  }
}

variable "noncurrent_days" {
  description = "Overwritten and deleted objects can be had back for so many days; they are paid for."
  type        = number
  default     = 14

  validation {
    condition     = var.noncurrent_days >= 1
    error_message = "noncurrent_days: 1 or more."
  }
}

variable "nodes_may_delete" {
  description = "May the nodes delete under runs/ of the bucket? False: keep_last and keep_best free no space while a run runs; `tuneyard checkpoints prune` with your own rights does."
  type        = bool
  default     = false
}

variable "read_only" {
  description = "What the nodes may read besides: [\"s3://bucket/prefix\"]."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for uri in var.read_only : can(regex("^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^*?]*)?$", uri))])
    error_message = "read_only: URIs such as s3://bucket/prefix."
  }
}

# The network

variable "network" {
  description = "A VPC that exists, and private subnets in it that reach S3, SSM and the package index. Null: one is made."
  type = object({
    vpc_id     = string
    subnet_ids = list(string)
  })
  default = null

  validation {
    condition     = var.network == null || try(length(var.network.subnet_ids) > 0, false)
    error_message = "network: one subnet or more."
  }
}

variable "cidr" {
  description = "Addresses of the VPC that is made, a /16 to /20."
  type        = string
  default     = "10.64.0.0/16"

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && try(tonumber(split("/", var.cidr)[1]) >= 16 && tonumber(split("/", var.cidr)[1]) <= 20, false)
    error_message = "cidr: a block from /16 to /20, such as 10.64.0.0/16."
  }
}

variable "zones" {
  description = "Over how many availability zones the VPC that is made goes: more find more free GPUs. Traffic between zones costs about 0.01 USD for each GB and direction."
  type        = number
  default     = 3

  validation {
    condition     = var.zones >= 1 && var.zones <= 6 && floor(var.zones) == var.zones
    error_message = "zones: 1 to 6."
  }
}

variable "internet" {
  description = <<-EOT
    How nodes without a public address reach what is outside, in the VPC that is made:
      nat   a NAT gateway: about 0.045 USD an hour (33 a month), and 0.045 for each GB; pip reaches PyPI
      none  interface endpoints for SSM and autoscaling: about 0.01 USD an hour for each of the three and zone (66 a
            month with three zones); nothing else is reached, so that `python` or an `index_url` inside is needed
    S3 goes through a gateway endpoint either way, which costs nothing.
  EOT
  type        = string
  default     = "nat"

  validation {
    condition     = contains(["nat", "none"], var.internet)
    error_message = "internet: nat or none."
  }
  validation {
    condition     = var.internet == "nat" || var.python != null || var.index_url != null
    error_message = "internet = \"none\" leaves pip without PyPI: give `python` (an image that has tuneyard), or an `index_url` that the VPC reaches."
  }
}

# Money and rights

variable "budget" {
  description = "An alarm by mail at 80 % and 100 % of so many USD a month, and when the month is forecast to pass it. Counts what has the tag tuneyard-cluster, which must be switched on once as a cost allocation tag in the billing console. It alarms; it stops nothing."
  type = object({
    usd_per_month = number
    emails        = list(string)
  })
  default = null

  validation {
    condition     = var.budget == null || try(var.budget.usd_per_month > 0 && length(var.budget.emails) > 0, false)
    error_message = "budget: more than 0 USD, and one mail address or more."
  }
}

variable "permissions_boundary" {
  description = "ARN of a permissions boundary for the nodes' roles, where your account asks for one."
  type        = string
  default     = null
}

variable "token_version" {
  description = "Raise it for a new token. The nodes read it when they start: restart or replace them."
  type        = number
  default     = 1
}
