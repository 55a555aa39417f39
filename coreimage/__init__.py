"""Build, publish and update operating-system images."""
