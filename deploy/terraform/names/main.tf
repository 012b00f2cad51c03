# What there is to make, as plain values: no provider, so that it can be tested anywhere (`terraform test`).

terraform {
  required_version = ">= 1.8"
}

variable "models_dir" {
  description = "The folder with one folder per model; its specs say which team owns which DAGs."
  type        = string
}

variable "intake_group" {
  description = "The consumer group of this deployment: RATCHET_GROUP_ID."
  type        = string
  default     = "ratchet-intake"

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]+$", var.intake_group))
    error_message = "A consumer group's name has letters, digits, '.', '_' and '-'."
  }
}

locals {
  # Written from the code by scripts/write-deploy-files, with the intake group that the code has when none is said.
  code          = jsondecode(file("${path.module}/../ratchet.json"))
  written_group = "ratchet-intake"

  acls = {
    for each in flatten([
      for principal, grants in local.code.grants : [
        for grant in grants : [
          for operation in grant.operations : {
            principal = principal
            operation = operation
            resource  = grant.resource
            pattern   = grant.pattern
            name      = grant.resource == "group" && grant.name == local.written_group ? var.intake_group : grant.name
          }
        ]
      ]
    ]) : "${each.principal}/${each.resource}/${each.name}/${each.operation}" => each
  }

  specs = {
    for file in fileset(var.models_dir, "*/model.yaml") : dirname(file) => yamldecode(file("${var.models_dir}/${file}"))
  }
  # A DAG that a spec does not ask for does not exist, and Airflow refuses a role that names it.
  dags = {
    for model, spec in local.specs : model => concat(
      ["retrain__${model}", "promote__${model}", "rollback__${model}"],
      [for verb, part in { monitor = "monitor", probation = "probation", score = "scoring" } : "${verb}__${model}" if try(spec[part], null) != null],
    )
  }
  # What Airflow asks for beside the right on the DAG itself, when somebody looks at a run, starts one, or answers.
  around_a_dag = {
    can_read   = ["Website", "DAG Runs", "DAG Code", "DAG Versions", "Task Instances", "Task Logs", "XComs", "HITL Detail", "My Profile"]
    can_create = ["DAG Runs"]
    can_edit   = ["DAG Runs", "Task Instances", "HITL Detail"]
  }
}

output "topics" {
  value = local.code.topics
}

output "acls" {
  value = local.acls
}

output "databases" {
  value = toset(local.code.databases)
}

output "components" {
  description = "The role that the components have in the ledger's database, of which they own nothing."
  value       = local.code.components
}

output "roles" {
  description = "The permissions of each owner's role: everything on the DAGs of its own models, nothing on another's."
  value = {
    for team in toset([for spec in local.specs : spec.owner.team]) : "ratchet-${team}" => concat(
      flatten([for action, resources in local.around_a_dag : [for resource in resources : { action = action, resource = resource }]]),
      flatten([
        for model, spec in local.specs : [
          for dag in local.dags[model] : [for action in ["can_read", "can_edit"] : { action = action, resource = "DAG:${dag}" }]
        ] if spec.owner.team == team
      ]),
    )
  }
}
