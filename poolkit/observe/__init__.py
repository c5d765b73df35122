"""What pools do, told to logs, to Prometheus and to OpenTelemetry."""
