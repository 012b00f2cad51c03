variable "models_dir" {
  description = "The folder with one folder per model."
  type        = string
}

variable "intake_group" {
  description = "The consumer group of this deployment: RATCHET_GROUP_ID."
  type        = string
  default     = "ratchet-intake"
}

variable "kafka_replicas" {
  description = "Copies of each topic; all but one must be written before a record counts as stored."
  type        = number
  default     = 3
}

variable "kafka_principals" {
  description = "What Kafka calls ratchet, monitor and audience, where it is something else, as in {ratchet = \"CN=ratchet\"}."
  type        = map(string)
  default     = {}
}

variable "bucket_prefix" {
  description = "How the names of the two buckets begin; bucket names are unique in the world."
  type        = string
}

variable "kms_key_arn" {
  description = "The key that objects are encrypted with; null for the storage's own."
  type        = string
  default     = null
}

variable "database_passwords" {
  description = "The password of each database's owner (airflow, ratchet, mlflow, optuna) and of ratchet_components. Never kept in the state."
  type        = map(string)
  sensitive   = true
  ephemeral   = true
}

variable "database_passwords_version" {
  description = "Another number sets the passwords again."
  type        = string
  default     = "1"
}

variable "airflow_roles" {
  description = "Whether to make a role per owner in Airflow; its DAGs must have been parsed once."
  type        = bool
  default     = true
}
