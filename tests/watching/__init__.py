"""What watches the platform: Prometheus, its rules, and the alerts for real faults."""
