"""`coreimage ...`. Nothing heavy is imported before the command that needs it."""

from coreimage.cli.app import main

__all__ = ["main"]
