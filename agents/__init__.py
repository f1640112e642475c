"""One file per input topic: decode, call the kernel, hand the results to the checkpoint."""
