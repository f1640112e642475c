"""What `assetstream bench` measures, one file per part, and the peers it measures beside."""
