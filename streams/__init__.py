"""Faust app, transport, settings, topics, checkpoint, metrics: everything that talks to Kafka."""
