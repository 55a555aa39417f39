"""The report of a run: its result, its artifacts in Prefect's UI, and the server that records it."""
