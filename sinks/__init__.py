"""ClickHouse: schema and migrations, the writer, the embedded server."""
