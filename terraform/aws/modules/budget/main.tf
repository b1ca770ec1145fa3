# An alarm by mail. It counts what carries the cluster's tag, once that is a cost allocation tag in the billing console.

locals {
  alarms = {
    soon     = { percent = 80, of = "ACTUAL" }
    passed   = { percent = 100, of = "ACTUAL" }
    forecast = { percent = 100, of = "FORECASTED" }
  }
}

resource "aws_budgets_budget" "month" {
  name         = "tuneyard-${var.name}"
  budget_type  = "COST"
  time_unit    = "MONTHLY"
  limit_amount = format("%.2f", var.usd_per_month)
  limit_unit   = "USD"

  cost_filter {
    name   = "TagKeyValue"
    values = [format("user:tuneyard-cluster$%s", var.name)]
  }

  dynamic "notification" {
    for_each = local.alarms

    content {
      comparison_operator        = "GREATER_THAN"
      threshold                  = notification.value.percent
      threshold_type             = "PERCENTAGE"
      notification_type          = notification.value.of
      subscriber_email_addresses = var.emails
    }
  }
}
