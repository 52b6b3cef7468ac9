"""One host: the agent, its guest processes, the switch, migration, images."""
