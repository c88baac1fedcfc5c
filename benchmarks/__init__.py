"""Load tests: ours and its peers side by side in one run. README.md says how to run them."""
