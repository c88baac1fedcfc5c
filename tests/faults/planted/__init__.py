"""Bugs that the suite must find: code that services run before their own (`tests.harness.faults.planted`)."""
