"""Project files, and what turns their channels into Prefect deployments."""
