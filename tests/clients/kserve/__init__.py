"""Run with the interpreter of the environment that has KServe's SDK."""
