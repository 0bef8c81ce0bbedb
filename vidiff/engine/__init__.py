"""What runs experiments: data order, the loop, checkpoints, logs, sampling. Knows no component by name."""
