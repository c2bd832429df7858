"""The data: files -> tensors on the device -> batches."""
