"""Where and how the tasks of a flow run."""
