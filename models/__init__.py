"""The pure core: messages, exact decimals, kernels, rules. No I/O, no clock, no Kafka."""
