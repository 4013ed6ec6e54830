"""Running a command: folders, checkpoints, device, several processes, the command line."""
