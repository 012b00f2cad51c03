"""What the verbs need of the world, as protocols; a fake ships beside each port that needs one."""
