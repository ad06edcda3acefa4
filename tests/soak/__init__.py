"""A long mixed load with faults, whose accounts have to balance at the end."""
