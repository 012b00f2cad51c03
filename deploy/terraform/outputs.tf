output "connections" {
  description = "Airflow's connections that hold no password."
  value = {
    AIRFLOW_CONN_RATCHET_STORAGE = "s3://${aws_s3_bucket.this["ratchet"].bucket}/storage"
  }
}

output "ledger_roles" {
  description = "Who connects to the ledger: `owner` migrates and grants, `components` is all that runs."
  value = {
    owner      = postgresql_database.this[module.names.components.database].owner
    components = postgresql_role.components.name
  }
}

output "mlflow_artifacts" {
  description = "What `mlflow server --artifacts-destination` is given."
  value       = "s3://${aws_s3_bucket.this["mlflow"].bucket}"
}

output "roles" {
  description = "Airflow's roles, by name; give them to people where your identities are kept."
  value       = keys(module.names.roles)
}
