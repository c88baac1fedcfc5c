"""What a process that runs model code gives up before it does."""
