# What the nodes may do, as statements of IAM policies. Nothing is here that is not used.

locals {
  own_data = [
    {
      Sid       = "ListItsOwn"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = [local.bucket]
      Condition = { StringLike = { "s3:prefix" = ["runs/*", "data/*"] } }
    },
    {
      Sid      = "KeepRuns"
      Effect   = "Allow"
      Action   = concat(["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"], var.nodes_may_delete ? ["s3:DeleteObject"] : [])
      Resource = ["${local.bucket}/runs/*"]
    },
    {
      Sid      = "ReadDataAndPackage"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = ["${local.bucket}/data/*", "${local.bucket}/tuneyard/packages/*"]
    },
    {
      Sid      = "TellWhyItDidNotStart"
      Effect   = "Allow"
      Action   = ["s3:PutObject"]
      Resource = ["${local.bucket}/tuneyard/logs/*"]
    },
  ]

  others_data = flatten([
    for place in local.read_only : [
      {
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = ["arn:${local.partition}:s3:::${place.bucket}"]
        Condition = { StringLike = { "s3:prefix" = ["${place.prefix}*"] } }
      },
      {
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = ["arn:${local.partition}:s3:::${place.bucket}/${place.prefix}*"]
      },
    ]
  ])

  token = concat(
    [{ Sid = "ReadTheToken", Effect = "Allow", Action = ["ssm:GetParameter"], Resource = local.parameters }],
    [for key in var.kms_key[*] : { Sid = "UseTheKey", Effect = "Allow", Action = ["kms:Decrypt", "kms:GenerateDataKey"], Resource = [key] }],
  )

  # What a session and a tunnel need. AWS's own policy for this would let the nodes read every parameter of the account.
  sessions = [{
    Sid    = "Sessions"
    Effect = "Allow"
    Action = [
      "ssm:UpdateInstanceInformation",
      "ssmmessages:CreateControlChannel",
      "ssmmessages:CreateDataChannel",
      "ssmmessages:OpenControlChannel",
      "ssmmessages:OpenDataChannel",
    ]
    Resource = ["*"] # none of these knows resources
  }]

  # The tag, and not the name alone: without it `lab` could end the workers of `lab-2`.
  leaving = {
    head = [{
      Sid      = "StopWhenIdle"
      Effect   = "Allow"
      Action   = ["ec2:StopInstances"]
      Resource = ["arn:${local.partition}:ec2:${local.place}:instance/*"]
      Condition = { StringEquals = {
        "aws:ResourceTag/tuneyard-cluster" = var.name
        "aws:ResourceTag/Name"             = "${local.tag}-head"
      } }
    }]
    worker = [
      {
        Sid       = "LeaveTheGroup"
        Effect    = "Allow"
        Action    = ["autoscaling:CompleteLifecycleAction", "autoscaling:TerminateInstanceInAutoScalingGroup"]
        Resource  = ["arn:${local.partition}:autoscaling:${local.place}:autoScalingGroup:*:autoScalingGroupName/${local.tag}-*"]
        Condition = { StringEquals = { "aws:ResourceTag/tuneyard-cluster" = var.name } }
      },
      {
        Sid      = "SeeWhatWaitsForIt"
        Effect   = "Allow"
        Action   = ["autoscaling:DescribeLifecycleHooks"]
        Resource = ["*"] # knows no resources
      },
    ]
  }
}
