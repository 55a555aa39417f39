"""The long campaigns: what `make test-all` runs beside the ordinary tests, in parts that can be resumed."""
