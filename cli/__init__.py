"""The `assetstream` command: the composition root."""
