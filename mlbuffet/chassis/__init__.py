"""What every service does alike: settings, logs, HTTP, errors as answers, metrics."""
