terraform {
  required_version = ">= 1.11" # write-only arguments and ephemeral variables

  required_providers {
    kafka      = { source = "Mongey/kafka", version = "~> 0.13" }
    aws        = { source = "hashicorp/aws", version = "~> 6.0" }
    postgresql = { source = "cyrilgdn/postgresql", version = "~> 1.26" }
    restapi    = { source = "Mastercard/restapi", version = "~> 2.0" }
  }
}
