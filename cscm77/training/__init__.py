"""A training that can be stopped and taken up again, and what it leaves to look back on."""
