"""What a configuration costs before it runs: operations, bytes, and the batch that fits."""
