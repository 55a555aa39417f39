"""The project file: what a team's images are made of."""
