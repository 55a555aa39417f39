"""Figures as ratios against a peer or a limit, each measured in one run.

`make benchmark` writes the pages of docs/performance/.
"""
