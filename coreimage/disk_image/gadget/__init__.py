"""The gadget: which structures a disk has, and what goes on them."""
