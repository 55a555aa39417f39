"""This machine: its processes, their environment and sandboxes, folders for work and caches, and full disks."""
