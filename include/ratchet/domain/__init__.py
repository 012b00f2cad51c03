"""Pure decisions: no I/O, no drivers, no clock."""
