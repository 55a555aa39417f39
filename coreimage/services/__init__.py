"""The services: the web server, the Prefect server, and the local supervisor of a whole installation."""
