"""The course's support folder: data, pictures and measurements for the two notebooks."""
