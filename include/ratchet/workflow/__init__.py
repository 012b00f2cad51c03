"""The verbs: each loads records, asks the domain for a decision, and acts through the ports."""
