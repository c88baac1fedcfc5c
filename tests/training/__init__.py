"""The trainer on a real engine."""
