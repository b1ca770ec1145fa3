variable "cluster" {
  description = "The cluster's name."
  type        = string
}

variable "region" {
  description = "The region of the bucket and the parameters."
  type        = string
}

variable "role" {
  description = "head or worker."
  type        = string
}

variable "head" {
  description = "The head's private address; empty on the head itself."
  type        = string
  default     = ""
}

variable "folder" {
  description = "The cluster's own folder on the node."
  type        = string
}

variable "python" {
  description = "A Python in the image that has tuneyard; null: an environment is made."
  type        = string
  default     = null
}

variable "bucket" {
  description = "The bucket with the package, to which a node that does not start sends its log."
  type        = string
}

variable "files" {
  description = "The package and the pinned versions: their keys in the bucket, and their digests."
  type        = map(object({ key = string, sha256 = string }))
  default     = {}
}

variable "boto3" {
  description = "The requirement by which pip gets boto3, which fetches the package."
  type        = string
  default     = "boto3"
}

variable "index_url" {
  description = "Where pip finds packages; null: PyPI."
  type        = string
  default     = null
}

variable "token_parameter" {
  description = "The SSM parameter with Ray's token: its name, and not the token."
  type        = string
}

variable "parameters" {
  description = "Environment variables, each with the SSM parameter that has its value."
  type        = map(string)
  default     = {}
}

variable "environment_file" {
  description = "A file of KEY=VALUE lines in the image."
  type        = string
  default     = null
}

variable "gcs_port" {
  description = "Where the head's GCS listens."
  type        = number
  default     = 6379
}

variable "dashboard_port" {
  description = "Where the head's dashboard listens."
  type        = number
  default     = 8265
}

variable "idle_minutes" {
  description = "A worker without work for so long leaves; null: never."
  type        = number
  default     = null
}

variable "head_idle_minutes" {
  description = "The head stops after so long; null: never."
  type        = number
  default     = null
}

variable "autoscaling_group" {
  description = "The worker's group; null on the head."
  type        = string
  default     = null
}

variable "data_volume" {
  description = "The id of the data disk, which is mounted at /data; null: none."
  type        = string
  default     = null
}
