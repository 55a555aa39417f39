"""Figures as ratios against a peer or a limit, measured in one run; `make benchmark` writes docs/performance.md."""
