"""One thin module of Prefect tasks per room."""
