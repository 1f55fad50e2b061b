"""The trainer's commands, each a click command object named `command`."""
