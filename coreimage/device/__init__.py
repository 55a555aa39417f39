"""What is installed into the image."""
