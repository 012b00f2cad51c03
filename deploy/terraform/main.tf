# Topics, rights, buckets, databases and DAG-level roles of one deployment. What there is to make: ./names.

module "names" {
  source       = "./names"
  models_dir   = var.models_dir
  intake_group = var.intake_group
}

# Kafka --------------------------------------------------------------------------------------------------------------

resource "kafka_topic" "this" {
  for_each = module.names.topics

  name               = each.key
  partitions         = each.value.partitions
  replication_factor = var.kafka_replicas
  config = {
    "retention.ms"        = tostring(each.value.retention_ms)
    "min.insync.replicas" = tostring(max(1, var.kafka_replicas - 1))
  }

  lifecycle {
    # Topics hold what was published and not yet stored.
    prevent_destroy = true
  }
}

resource "kafka_acl" "this" {
  for_each = module.names.acls

  resource_name                = each.value.name
  resource_type                = title(each.value.resource)
  resource_pattern_type_filter = title(each.value.pattern)
  acl_principal                = "User:${lookup(var.kafka_principals, each.value.principal, each.value.principal)}"
  acl_host                     = "*"
  acl_operation                = each.value.operation
  acl_permission_type          = "Allow"
}

# Storage ------------------------------------------------------------------------------------------------------------

resource "aws_s3_bucket" "this" {
  for_each = toset(["ratchet", "mlflow"])

  bucket = "${var.bucket_prefix}-${each.key}"

  lifecycle {
    prevent_destroy = true
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each = aws_s3_bucket.this

  bucket                  = each.value.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = aws_s3_bucket.this

  bucket = each.value.id
  rule {
    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

# Databases ----------------------------------------------------------------------------------------------------------

resource "postgresql_role" "this" {
  for_each = module.names.databases

  name                = each.key
  login               = true
  password_wo         = var.database_passwords[each.key]
  password_wo_version = var.database_passwords_version
}

resource "postgresql_database" "this" {
  for_each = module.names.databases

  name     = each.key
  owner    = postgresql_role.this[each.key].name
  encoding = "UTF8"
  template = "template0"

  lifecycle {
    prevent_destroy = true
  }
}

# A database is its owner's alone: PostgreSQL lets everybody connect to a new one.
resource "postgresql_grant" "nobody_else" {
  for_each = postgresql_database.this

  database    = each.value.name
  role        = "public"
  object_type = "database"
  privileges  = []
}

# Whom the components are to the ledger: they may connect, and own nothing. What they may do with its rows,
# `ratchet ledger grant` gives after each migration, since tables come from migrations: the release's job runs both.
resource "postgresql_role" "components" {
  name                = module.names.components.role
  login               = true
  password_wo         = var.database_passwords[module.names.components.role]
  password_wo_version = var.database_passwords_version
}

resource "postgresql_grant" "components" {
  database    = postgresql_database.this[module.names.components.database].name
  role        = postgresql_role.components.name
  object_type = "database"
  privileges  = ["CONNECT"]
}

# Roles --------------------------------------------------------------------------------------------------------------

# Airflow's FAB auth manager knows a DAG's rights once the DAG was parsed: apply this part after the first start.
resource "restapi_object" "role" {
  for_each = var.airflow_roles ? module.names.roles : {}

  path          = "/auth/fab/v1/roles"
  object_id     = each.key
  id_attribute  = "name"
  update_method = "PATCH"
  data = jsonencode({
    name    = each.key
    actions = [for each in each.value : { action = { name = each.action }, resource = { name = each.resource } }]
  })
}
