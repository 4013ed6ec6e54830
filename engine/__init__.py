"""What runs a command: the run folder, checkpoints, the device, several processes, the command line."""
