variables {
  models_dir = "../../../include/models"
}

run "topics_and_databases_are_those_of_the_code" {
  command = plan

  assert {
    condition     = length(output.topics) == 5 && output.topics["ml.drift"].retention_ms == 30 * 86400000
    error_message = "inbound topics keep 30 days"
  }
  assert {
    condition     = output.databases == toset(["airflow", "ratchet", "mlflow", "optuna"])
    error_message = "four databases"
  }
}

run "the_components_role_is_no_databases_owner" {
  command = plan

  assert {
    condition     = output.components.role == "ratchet_components" && !contains(output.databases, output.components.role)
    error_message = "a database's owner has its name, and the components own none"
  }
  assert {
    condition     = contains(output.databases, output.components.database)
    error_message = "the components connect to a database that is made"
  }
}

run "a_monitor_may_only_write_what_comes_in" {
  command = plan

  assert {
    condition = toset([for acl in output.acls : "${acl.operation} ${acl.name}" if acl.principal == "monitor" && acl.operation != "Describe"]) == toset([
      "Write ml.drift", "Write ml.data-arrival", "Write ml.retrain-requests",
    ])
    error_message = "a monitor writes inbound topics and reads nothing"
  }
}

run "another_deployment_has_a_group_of_its_own" {
  command = plan

  variables {
    intake_group = "ratchet-staging"
  }

  assert {
    condition     = toset([for acl in output.acls : acl.name if acl.resource == "group" && acl.principal == "ratchet"]) == toset(["ratchet-staging"])
    error_message = "the intake's group is the one given"
  }
  assert {
    condition     = toset([for acl in output.acls : acl.name if acl.resource == "group" && acl.principal == "audience"]) == toset(["ratchet-audience-"])
    error_message = "the audience's groups stay"
  }
}

run "an_owner_has_the_dags_of_its_models" {
  command = plan

  assert {
    condition = toset([for each in output.roles["ratchet-ops-analytics"] : each.resource if each.action == "can_edit" && startswith(each.resource, "DAG:")]) == toset([
      "DAG:retrain__flight_delay", "DAG:promote__flight_delay", "DAG:rollback__flight_delay", "DAG:monitor__flight_delay",
    ])
    error_message = "the owner of flight_delay may edit its four DAGs"
  }
  assert {
    condition     = !contains([for each in output.roles["ratchet-ops-analytics"] : each.resource], "DAGs")
    error_message = "no role has a right on all DAGs"
  }
}

run "a_group_that_is_no_name_is_refused" {
  command = plan

  variables {
    intake_group = "two words"
  }

  expect_failures = [var.intake_group]
}
