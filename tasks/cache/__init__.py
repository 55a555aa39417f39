"""When the result of a task is used again."""
